"""A cluster in one process for each test, as in the tests of servers."""

from tests.server.conftest import _nothing_is_swallowed, cluster, probe

__all__ = ["_nothing_is_swallowed", "cluster", "probe"]
