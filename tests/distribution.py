"""Which tests run on one worker of pytest-xdist, one after the other.

pytest-xdist's own ``--dist loadgroup`` puts the group into the id of a test, which pytest 9.2 does
not let it change any more.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

CLUSTERS = "tests/cluster/processes/test_"

GROUPS = {
    # so that at most two clusters share the machine
    "faults of servers": [CLUSTERS + name for name in ("chaos", "drain", "kill", "pause")],
    "faults around servers": [CLUSTERS + name for name in ("failover", "network", "storage")],
    # so that the wheel is built once, and the other project is tested once
    "packaging": ["tests/test_packaging"],
    "conformance": ["tests/testing/test_conformance"],
}
"""The beginnings of the ids of the tests in each group."""


class Distribution(LoadScopeScheduling):
    """Gives each group to a worker first, and then each other test to the next worker."""

    def _split_scope(self, nodeid: str) -> str:
        for group, members in GROUPS.items():
            if nodeid.startswith(tuple(members)):
                return group
        return nodeid
