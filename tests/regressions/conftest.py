"""The clusters of other tests: one in a single process, and one of real processes."""

from tests.cluster.processes.conftest import make_cluster, store
from tests.server.conftest import _nothing_is_swallowed, cluster, probe

__all__ = ["_nothing_is_swallowed", "cluster", "make_cluster", "probe", "store"]
