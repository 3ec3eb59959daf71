"""What tests of rio's users are made of: a cluster in one process, its network and its faults, and
virtual time.

The contracts that a storage of one's own has to keep are in :mod:`rio.testing.contracts`.
"""

from __future__ import annotations

from rio.testing.faults import StorageFaults
from rio.testing.local_cluster import LocalCluster, LocalNode
from rio.testing.network import Network
from rio.testing.proxy import Proxy
from rio.testing.virtual_time import Host, ManualClock, VirtualTimeLoop, current_host, run

__all__ = [
    "Host",
    "LocalCluster",
    "LocalNode",
    "ManualClock",
    "Network",
    "Proxy",
    "StorageFaults",
    "VirtualTimeLoop",
    "current_host",
    "run",
]
