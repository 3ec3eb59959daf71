"""Test suites that show whether a storage keeps the contracts of :mod:`rio.contracts`.

For each role of a back end subclass a suite in a test module, and give it the fixture that it asks
for::

    import pytest
    from rio.testing.conformance import StateStorageTests

    class TestMyState(StateStorageTests):
        @pytest.fixture
        async def state(self):
            async with MyState(...) as state:      # prepared, and empty
                yield state

===============================  ===============  =================================================
suite                            fixture          yields, for each test anew
===============================  ===============  =================================================
:class:`MembershipStorageTests`  ``membership``   a :class:`rio.contracts.MembershipStorage`
:class:`ObjectPlacementTests`    ``placement``    a :class:`rio.contracts.ObjectPlacement`
:class:`StateStorageTests`       ``state``        a :class:`rio.contracts.StateStorage`
:class:`TypedStateStorageTests`  ``typed_state``  a :class:`rio.contracts.TypedStateStorage`
:class:`FirstCommitTests`        ``storage``      a :class:`rio.Storage`, placement and states in
                                                  one database
:class:`SharedStorageTests`      ``shared``       a :class:`SharedStorage`, for several processes
===============================  ===============  =================================================

The suites need pytest and pytest-asyncio with ``asyncio_mode = "auto"``. A test that fails shows
the values that it compared, in whatever project it runs.

The suites do not take a server away or fill its disk. That such things end in
:class:`rio.errors.StorageUnavailable`, and never in "not found", is for the back end's own tests to
show.
"""

# ruff: noqa: E402

from __future__ import annotations

import pytest

# pytest shows the values of an assertion in modules that it rewrites: test modules, and those that
# are named to it before their first import.
pytest.register_assert_rewrite(
    "rio.testing.conformance._members",
    "rio.testing.conformance._membership",
    "rio.testing.conformance._placement",
    "rio.testing.conformance._shared",
    "rio.testing.conformance._state",
    "rio.testing.conformance._typed_state",
)

from rio.testing._shared_storage import SharedStorage
from rio.testing.conformance._membership import MembershipStorageTests
from rio.testing.conformance._placement import ObjectPlacementTests
from rio.testing.conformance._shared import SharedStorageTests
from rio.testing.conformance._state import FirstCommitTests, StateStorageTests
from rio.testing.conformance._typed_state import TypedStateStorageTests

__all__ = [
    "FirstCommitTests",
    "MembershipStorageTests",
    "ObjectPlacementTests",
    "SharedStorage",
    "SharedStorageTests",
    "StateStorageTests",
    "TypedStateStorageTests",
]
