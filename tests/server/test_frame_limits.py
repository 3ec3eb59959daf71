"""A client and a server with different frame limits: what is too large fails alone."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

import rio
from rio.errors import FrameTooLarge, Gap, ReplyTooLarge
from tests.server.harness import Cluster, until

SMALL = 100_000
LARGE = 200_000


gate = asyncio.Event()
fetched: list[int] = []


class Put(rio.Message[int]):
    data: str


class Look(rio.Message[int], readonly=True):
    data: str


class Fetch(rio.Message[str], readonly=True):
    size: int


class Hold(rio.Message[str]): ...


class Fail(rio.Message[None]):
    size: int


class Bitter(rio.ApplicationError):
    text: str


class Publish(rio.Message[None]):
    size: int


class PublishLargest(rio.Message[int]): ...


class Published(rio.Message):
    data: str


class Shelf(rio.ServiceObject):
    @rio.handler
    def put(self, message: Put) -> int:
        return len(message.data)

    @rio.handler
    def look(self, message: Look) -> int:
        return len(message.data)

    @rio.handler
    def fetch(self, message: Fetch) -> str:
        fetched.append(message.size)
        return "x" * message.size

    @rio.handler
    async def hold(self, message: Hold) -> str:
        await gate.wait()
        return "held"

    @rio.handler
    def fail(self, message: Fail) -> None:
        raise Bitter("x" * message.size)

    @rio.handler
    def publish_data(self, message: Publish) -> None:
        self.publish(Published("x" * message.size))

    @rio.handler
    def publish_largest(self, message: PublishLargest) -> int:
        for size in range(SMALL, 0, -1):
            with suppress(FrameTooLarge):
                self.publish(Published("x" * size))
                return size
        return 0


@pytest.fixture(autouse=True)
def close_gate() -> None:
    global gate
    gate = asyncio.Event()
    fetched.clear()


@pytest.mark.parametrize("message", [Put("x" * LARGE), Look("x" * LARGE)], ids=["once", "readonly"])
@pytest.mark.parametrize("known", [False, True], ids=["new", "known"])
async def test_a_message_above_the_limit_of_the_server_fails_alone_and_at_once(
    cluster: Cluster, message: Put | Look, known: bool
) -> None:
    server = await cluster.server(Shelf, config=rio.ServerConfig(frame_limit=SMALL))
    client = await cluster.client(timeout=3600.0)
    others = [client.send(Shelf, str(number), Hold()) for number in range(50)]
    await until(lambda: server.statistics().in_flight == 50)
    if known:
        await client.send(Shelf, "a", Put(""))
    with pytest.raises(FrameTooLarge, match=f"the frame limit is {SMALL}"):
        await client.send(Shelf, "a", message)
    assert len(server._catalog.dispatcher.connections) == 1
    gate.set()
    assert await asyncio.gather(*others) == ["held"] * 50
    assert await client.send(Shelf, "a", Put("x" * (SMALL - 200))) == SMALL - 200


async def test_a_reply_above_the_limit_of_the_client_fails_alone_and_is_not_asked_for_again(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Shelf)
    client = await cluster.client(frame_limit=SMALL, timeout=3600.0)
    other = client.send(Shelf, "b", Hold())
    with pytest.raises(ReplyTooLarge, match=f"the frame limit is {SMALL}"):
        await client.send(Shelf, "a", Fetch(LARGE))
    assert fetched == [LARGE]
    assert len(server._catalog.dispatcher.connections) == 1
    gate.set()
    assert await other == "held"
    assert len(await client.send(Shelf, "a", Fetch(SMALL - 200))) == SMALL - 200


async def test_an_error_above_the_limit_of_the_client_fails_alone(cluster: Cluster) -> None:
    await cluster.server(Shelf)
    client = await cluster.client(frame_limit=SMALL, timeout=3600.0)
    other = client.send(Shelf, "b", Hold())
    with pytest.raises(ReplyTooLarge, match="the answer was a Bitter"):
        await client.send(Shelf, "a", Fail(LARGE))
    gate.set()
    assert await other == "held"


async def test_an_event_above_the_limit_of_one_subscriber_is_a_gap_for_that_one(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Shelf)
    small = await cluster.client(frame_limit=SMALL)
    large = await cluster.client()
    async with (
        small.subscribe(Shelf, "a", Published) as few,
        large.subscribe(Shelf, "a", Published) as all_,
    ):
        await until(lambda: server.statistics().subscriptions == 2)
        await large.send(Shelf, "a", Publish(LARGE))
        with pytest.raises(Gap) as caught:
            await anext(few)
        assert caught.value.missed == 1
        await large.send(Shelf, "a", Publish(1))
        assert await anext(few) == Published("x")
        assert await anext(all_) == Published("x" * LARGE)
        assert await anext(all_) == Published("x")
        assert few.moves == 0


async def test_an_event_of_the_largest_size_reaches_subscribers_with_the_same_limit(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Shelf, config=rio.ServerConfig(frame_limit=SMALL))
    client = await cluster.client(frame_limit=SMALL)
    async with client.subscribe(Shelf, "a", Published) as events:
        await until(lambda: server.statistics().subscriptions == 1)
        size = await client.send(Shelf, "a", PublishLargest())
        assert len((await anext(events)).data) == size


@pytest.mark.parametrize(("limit", "window"), [(1, 1), (10, 5), (8192, 4096)])
async def test_a_client_awaits_half_of_what_the_server_takes(
    cluster: Cluster, limit: int, window: int
) -> None:
    await cluster.server(Shelf, config=rio.ServerConfig(in_flight_limit=limit))
    client = await cluster.client()
    await client.send(Shelf, "a", Put(""))
    assert [each.window for each in client._router.pool.connections] == [window]
