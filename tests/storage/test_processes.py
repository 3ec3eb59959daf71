"""Several processes on one SQLite file, one PostgreSQL, one Redis: nothing is owned twice or lost.

A planted mistake shows that the tests would notice.
"""

from __future__ import annotations

import asyncio

import pytest

from rio.contracts.placement import ObjectPlacement, Placement
from rio.identity import ObjectId
from rio.storage import Storage, open_storage
from rio.testing._racer import run_race
from rio.testing.conformance import SharedStorage, SharedStorageTests

pytestmark = [pytest.mark.processes, pytest.mark.slow]


class TestSqlite(SharedStorageTests):
    @pytest.fixture
    def shared(self, sqlite_url: str) -> SharedStorage:
        return SharedStorage("rio.storage:open_storage", (f"{sqlite_url}?busy_timeout=30",))


class TestPostgres(SharedStorageTests):
    elections = 50
    reads = 3000

    @pytest.fixture
    def shared(self, postgres_url: str) -> SharedStorage:
        return SharedStorage("rio.storage:open_storage", (postgres_url,))


class TestRedis(SharedStorageTests):
    reads = 3000

    @pytest.fixture
    def shared(self, redis_url: str) -> SharedStorage:
        return SharedStorage("rio.storage:open_storage", (redis_url,))


class BlindPlacement(ObjectPlacement):
    """Claims as rio-rs does: it looks, writes without a condition, and takes itself for the owner.

    The time between is long here, so that processes meet in it however busy the machine is.
    """

    def __init__(self, placement: ObjectPlacement) -> None:
        self._placement = placement

    async def prepare(self) -> None:
        await self._placement.prepare()

    async def close(self) -> None:
        await self._placement.close()

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        found = await self._placement.lookup(object_id)
        if found is not None:
            return found
        await asyncio.sleep(0.25)
        written = await self._placement.claim(object_id, generation)
        while written.generation != generation:
            written = await self._placement.claim(object_id, generation, supersede=written.token)
        return written

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        return await self._placement.lookup(object_id)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        return await self._placement.release(object_id, token)

    async def release_all(self, generation: int) -> int:
        return await self._placement.release_all(generation)

    async def owned_by(self, generation: int) -> list[ObjectId]:
        return [*await self._placement.owned_by(generation)]


def open_blindly(url: str) -> Storage:
    storage = open_storage(url)
    return Storage(storage.membership, BlindPlacement(storage.placement), storage.state)


@pytest.fixture(params=["sqlite_url", "postgres_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(request.param)
    return found


async def test_the_race_for_objects_shows_what_a_blind_claim_does(url: str) -> None:
    answers = await run_race(
        SharedStorage("tests.storage.test_processes:open_blindly", (url,)), "claim_all", 600
    )
    believers = [
        sum(answer[index][0] == number for number, answer in enumerate(answers, 1))
        for index in range(600)
    ]
    assert sum(count > 1 for count in believers) > 60
