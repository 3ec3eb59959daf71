"""What tests of objects and of storages are made of: a cluster in one process, its network and its
faults, virtual time, and a proxy between real sockets.

:mod:`rio.testing.conformance` has the test suites for a storage of your own.
"""

from __future__ import annotations

from rio.testing.faults import StorageFaults
from rio.testing.local_cluster import LocalCluster
from rio.testing.local_node import LocalNode
from rio.testing.manual_clock import ManualClock
from rio.testing.network import Network
from rio.testing.proxy import Proxy, Wire
from rio.testing.virtual_time import Host, VirtualTimeLoop, current_host, run

__all__ = [
    "Host",
    "LocalCluster",
    "LocalNode",
    "ManualClock",
    "Network",
    "Proxy",
    "StorageFaults",
    "VirtualTimeLoop",
    "Wire",
    "current_host",
    "run",
]
