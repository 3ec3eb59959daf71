"""The storages on Redis (Valkey) keep the contracts."""

from collections.abc import AsyncIterator

import pytest

from rio.cluster.membership import MembershipStorage
from rio.placement import ObjectPlacement
from rio.state import StateStorage
from rio.storage.redis import RedisMembershipStorage, RedisObjectPlacement, RedisState
from rio.testing.contracts import MembershipStorageContract, ObjectPlacementContract, StateStorageContract

pytestmark = pytest.mark.both_loops


class TestRedisMembershipStorage(MembershipStorageContract):
    @pytest.fixture
    async def membership(self, redis_url: str) -> AsyncIterator[MembershipStorage]:
        async with RedisMembershipStorage(redis_url) as membership:
            yield membership


class TestRedisObjectPlacement(ObjectPlacementContract):
    @pytest.fixture
    async def placement(self, redis_url: str) -> AsyncIterator[ObjectPlacement]:
        async with RedisObjectPlacement(redis_url) as placement:
            yield placement


class TestRedisState(StateStorageContract):
    @pytest.fixture
    async def state(self, redis_url: str) -> AsyncIterator[StateStorage]:
        async with RedisState(redis_url) as state:
            yield state
