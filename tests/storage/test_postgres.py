"""The storages on PostgreSQL keep the contracts."""

from collections.abc import AsyncIterator

import pytest

from rio.cluster.membership import MembershipStorage
from rio.placement import ObjectPlacement
from rio.state import StateStorage
from rio.storage.postgres import PostgresMembershipStorage, PostgresObjectPlacement, PostgresState
from rio.testing.contracts import MembershipStorageContract, ObjectPlacementContract, StateStorageContract

pytestmark = pytest.mark.both_loops


class TestPostgresMembershipStorage(MembershipStorageContract):
    @pytest.fixture
    async def membership(self, postgres_url: str) -> AsyncIterator[MembershipStorage]:
        async with PostgresMembershipStorage(postgres_url) as membership:
            yield membership


class TestPostgresObjectPlacement(ObjectPlacementContract):
    @pytest.fixture
    async def placement(self, postgres_url: str) -> AsyncIterator[ObjectPlacement]:
        async with PostgresObjectPlacement(postgres_url) as placement:
            yield placement


class TestPostgresState(StateStorageContract):
    @pytest.fixture
    async def state(self, postgres_url: str) -> AsyncIterator[StateStorage]:
        async with PostgresState(postgres_url) as state:
            yield state
