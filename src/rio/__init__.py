"""Distributed stateful services: objects with an identity, found anywhere in a cluster, that take
one message at a time and keep state.
"""

from rio.app_data import AppData
from rio.client.admin import AdminCommand
from rio.client.client import Client
from rio.client.subscription import Subscription
from rio.cluster.config import ClusterConfig, GossipConfig
from rio.cluster.membership import Member, MembershipStorage
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import ClusterProvider, LocalClusterProvider
from rio.errors import RioError
from rio.handler import handler
from rio.identity import Address, ObjectId
from rio.message import ApplicationError, DynamicMessage, Message, State
from rio.placement import ObjectPlacement
from rio.pubsub import MessageRouter
from rio.registry import Registry
from rio.running import run
from rio.server import Server
from rio.service_object import ServiceObject
from rio.state import StateLoader, StateSaver, StateStorage, managed_state
from rio.storage import Storage, open_storage

__all__ = [
    "Address",
    "AdminCommand",
    "AppData",
    "ApplicationError",
    "Client",
    "ClusterConfig",
    "ClusterProvider",
    "DynamicMessage",
    "GossipConfig",
    "LocalClusterProvider",
    "Member",
    "MembershipStorage",
    "Message",
    "MessageRouter",
    "ObjectId",
    "ObjectPlacement",
    "PeerToPeerClusterProvider",
    "Registry",
    "RioError",
    "Server",
    "ServiceObject",
    "State",
    "StateLoader",
    "StateSaver",
    "StateStorage",
    "Storage",
    "Subscription",
    "handler",
    "managed_state",
    "open_storage",
    "run",
]
