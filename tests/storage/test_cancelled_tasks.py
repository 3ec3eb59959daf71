"""Others may cancel a task of a storage at any time: its callers are answered all the same."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rio.contracts import Placement
from rio.errors import StorageUnavailable
from rio.identity import ObjectId
from rio.storage import open_storage
from tests.canceller import cancelled


@pytest.fixture(params=["PostgresLane", "RedisLane"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def url(lane: str, request: pytest.FixtureRequest) -> str:
    fixture = {"PostgresLane": "postgres_url", "RedisLane": "redis_url"}[lane]
    return str(request.getfixturevalue(fixture))


@pytest.mark.parametrize("delay", range(6))
async def test_all_who_wait_are_answered_and_the_next_are_served(
    lane: str, url: str, delay: int
) -> None:
    async with open_storage(url) as storage:

        def claim(id: str) -> Any:
            return storage.placement.claim(ObjectId("Thing", id), 1)

        # Of another kind: PostgreSQL does both in one round, each in a task of its own.
        release = storage.placement.release(ObjectId("Thing", "z"), 1)

        with cancelled(f"{lane}._serve", delay) as canceller:
            async with asyncio.timeout(10.0):
                calls = [*map(claim, "abc"), release]
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert {type(outcome) for outcome in outcomes} <= {
                    Placement,
                    bool,
                    StorageUnavailable,
                }
                assert [placement.generation for placement in [await claim(id) for id in "abcd"]]
        assert canceller.hit
