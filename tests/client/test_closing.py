"""A client that is cancelled while it closes leaves nothing open."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import rio

pytestmark = pytest.mark.both_loops


class Ping(rio.Message[None]):
    pass


class Thing(rio.ServiceObject):
    @rio.handler
    def ping(self, message: Ping) -> None:
        self.publish(message)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/things.db"


@pytest.fixture
async def server(url: str) -> AsyncIterator[rio.Server]:
    async with rio.Server(rio.Registry(Thing), storage=url, cluster="local") as server:
        yield server


@pytest.mark.parametrize("turns", range(1, 9))
async def test_a_client_that_is_cancelled_while_it_closes_closes_all_the_same(
    server: rio.Server, url: str, turns: int
) -> None:
    client = rio.Client(url)
    await client.start()
    await client.send(Thing, "a", Ping())
    subscriptions = [client.subscribe(Thing, id, Ping) for id in "abc"]
    for each in subscriptions:
        await each.__aenter__()
    database = client._router._access._owned._shared  # type: ignore[attr-defined]
    assert database._is_open
    closing = asyncio.ensure_future(client.close())
    for _ in range(turns):
        await asyncio.sleep(0)
    was_cancelled = closing.cancel()
    await asyncio.wait((closing,))
    assert closing.cancelled() == was_cancelled
    assert not database._is_open
    assert list(client._router.pool.connections) == []
    for each in subscriptions:
        assert [event async for event in each] == []
