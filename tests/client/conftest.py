"""A cluster in one process for each test: the one of the servers' tests."""

from tests.server.conftest import _nothing_is_swallowed, cluster, probe

__all__ = ["_nothing_is_swallowed", "cluster", "probe"]
