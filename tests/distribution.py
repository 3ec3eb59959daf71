"""Which tests run on one worker of pytest-xdist, one after the other.

pytest-xdist's own ``--dist loadgroup`` puts the group into the id of a test, which pytest 9.2 does
not let it change any more.
"""

from __future__ import annotations

from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

GROUPS = {
    # so that one PostgreSQL and one Valkey serve all of them, and no two compete (tests/machine.py)
    "clusters of processes": ["tests/cluster/processes/", "tests/cli/"],
    # so that the wheel is built once, and the other project is tested once
    "packaging": ["tests/test_packaging"],
    "conformance": ["tests/testing/test_conformance"],
}
"""The beginnings of the ids of the tests in each group."""


class Distribution(LoadScopeScheduling):
    """Gives each group, and each other test, to the next worker, in the order of the collection."""

    def __init__(self, config: pytest.Config, log: Any) -> None:
        config.option.loadscopereorder = False  # which would begin with the group of most tests
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        for group, members in GROUPS.items():
            if nodeid.startswith(tuple(members)):
                return group
        return nodeid
