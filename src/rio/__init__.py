"""Distributed stateful services: objects with an identity that take one message at a time.

They live somewhere in a cluster, are found by their type and id, and keep state. Subclass
:class:`ServiceObject`, mark its methods with :func:`handler`, host the class with a
:class:`Server`, and send its objects a :class:`Message` with a :class:`Client`. Public as well are
:mod:`rio.errors`, :mod:`rio.contracts`, :mod:`rio.storage` and :mod:`rio.testing`.
"""

from rio import errors
from rio._version import __version__ as __version__
from rio.client.admin import AdminCommand
from rio.client.client import Client
from rio.client.subscription import Subscription
from rio.cluster.config import ClusterConfig, GossipConfig
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.cluster.provider import ClusterProvider, LocalClusterProvider
from rio.contracts.membership import Member, MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import RioError
from rio.identity import Address, ObjectId
from rio.objects.app_data import AppData
from rio.objects.application_error import ApplicationError, UnknownApplicationError
from rio.objects.context_var import ContextVar
from rio.objects.filters import Call, Filter, Proceed
from rio.objects.handler import handler
from rio.objects.managed_state import managed_state
from rio.objects.message import DynamicMessage, Message, check
from rio.objects.registry import Registry
from rio.objects.service_object import ServiceObject
from rio.objects.state import State
from rio.objects.threads import from_thread
from rio.objects.upcasters import upcast
from rio.runner import run
from rio.security.keys import Identity, Key
from rio.security.security import Security
from rio.server.config import ServerConfig
from rio.server.message_router import MessageRouter
from rio.server.server import Server
from rio.storage import Storage, open_storage
from rio.transport.call_context import caller

__all__ = [
    "Address",
    "AdminCommand",
    "AppData",
    "ApplicationError",
    "Call",
    "Client",
    "ClusterConfig",
    "ClusterProvider",
    "ContextVar",
    "DynamicMessage",
    "Filter",
    "GossipConfig",
    "Identity",
    "Key",
    "LocalClusterProvider",
    "Member",
    "MembershipStorage",
    "Message",
    "MessageRouter",
    "ObjectId",
    "ObjectPlacement",
    "PeerToPeerClusterProvider",
    "Proceed",
    "Registry",
    "RioError",
    "Security",
    "Server",
    "ServerConfig",
    "ServiceObject",
    "State",
    "StateStorage",
    "Storage",
    "Subscription",
    "UnknownApplicationError",
    "caller",
    "check",
    "errors",
    "from_thread",
    "handler",
    "managed_state",
    "open_storage",
    "run",
    "upcast",
]
