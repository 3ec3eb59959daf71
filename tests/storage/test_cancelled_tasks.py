"""Whatever ends a task of a storage, its callers are answered, and the next are served."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from rio.contracts import Placement
from rio.errors import StorageUnavailable
from rio.identity import ObjectId
from rio.storage import open_storage
from rio.storage.postgres._lane import PostgresLane
from rio.storage.redis import _lane
from rio.storage.redis._lane import RedisLane
from tests.canceller import cancelled

LANES = {"PostgresLane": PostgresLane, "RedisLane": RedisLane}


@pytest.fixture(params=list(LANES))
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
            calls = [*map(claim, "abc"), release]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} <= {
                Placement,
                bool,
                StorageUnavailable,
            }
            assert [placement.generation for placement in [await claim(id) for id in "abcd"]]
        assert canceller.hit


async def test_an_error_that_nobody_expected_is_answered_and_the_next_are_served(
    lane: str, url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> Any:
        raise KeyError("nobody expected this")

    async with open_storage(url) as storage:
        with monkeypatch.context() as patch:
            patch.setattr(LANES[lane], "_take", fail)
            claims = [storage.placement.claim(ObjectId("Thing", id), 1) for id in "ab"]
            for outcome in await asyncio.gather(*claims, return_exceptions=True):
                assert isinstance(outcome, StorageUnavailable)
                assert "nobody expected this" in str(outcome)
        assert (await storage.placement.claim(ObjectId("Thing", "a"), 1)).generation == 1
    assert "serving failed" in caplog.text


@pytest.mark.parametrize("answer", [None, [], [b"1:1"] * 3, b"1:1"])
async def test_an_answer_that_makes_no_sense_is_an_error_and_the_next_are_served(
    redis_url: str, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    async def exchange(connection: Any, commands: list[Any]) -> list[object]:
        await send(connection, commands)
        return [answer for _ in commands]

    send = _lane.exchange
    async with open_storage(redis_url) as storage:
        with monkeypatch.context() as patch:
            patch.setattr(_lane, "exchange", exchange)
            claims = [storage.placement.claim(ObjectId("Thing", id), 1) for id in "ab"]
            for outcome in await asyncio.gather(*claims, return_exceptions=True):
                assert isinstance(outcome, StorageUnavailable)
        assert (await storage.placement.claim(ObjectId("Thing", "a"), 1)).generation == 1
