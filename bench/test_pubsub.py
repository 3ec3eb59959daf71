"""How many deliveries a second does one event after the other make?

There are 1, 100 and 1,000 subscribers; 1,000 subscriptions are on one connection, on ten, and on a
connection each. The receiver counts frames, so this measures the server. At last, a client decodes
every event and hands it to the task that waits for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

import rio
from bench.figures import Work, in_turn
from bench.processes import ServerProcess, pinned
from bench.raw import RawConnection
from bench.workload import Bell, Rang, Ring

DELIVERIES = 100_000
BATCH = 10
"""Events that one call publishes."""


@pytest.fixture(autouse=True)
def _two_cores(server: ServerProcess) -> Iterator[None]:
    with pinned({os.getpid(): 0, server.pid: 1}):
        yield


@pytest.fixture
def client(runner: asyncio.Runner, server: ServerProcess, storage_url: str) -> Iterator[rio.Client]:
    client = rio.Client(storage_url)
    runner.run(client.start())
    yield client
    runner.run(client.close())


@pytest.mark.parametrize(
    ("subscribers", "connections"),
    [
        pytest.param(1, 1, marks=pytest.mark.full),
        pytest.param(100, 1, marks=pytest.mark.full),
        (1000, 1),
        (1000, 10),
        (1000, 1000),
    ],
)
def test_deliveries(
    benchmark: Any,
    report: Any,
    runner: asyncio.Runner,
    server: ServerProcess,
    client: rio.Client,
    subscribers: int,
    connections: int,
) -> None:
    id = f"{subscribers} on {connections}"
    rings = max(1, DELIVERIES // subscribers // BATCH)

    async def connect() -> list[RawConnection]:
        listening = [await RawConnection.connect(server.address) for _ in range(connections)]
        for connection in listening:
            await connection.subscribe(Bell, id, subscribers // connections)
        return listening

    async def ring() -> None:
        expected = rings * BATCH * subscribers // connections
        arrivals = [connection.arrival(connection.frames + expected) for connection in listening]
        for _ in range(rings):
            await client.send(Bell, id, Ring(BATCH))
        await asyncio.gather(*arrivals)

    async def close() -> None:
        for connection in listening:
            await connection.close()

    listening = runner.run(connect())
    work = Work(lambda: runner.run(ring()), rings * BATCH * subscribers, server.pid)
    in_turn(benchmark, work, rounds=5)
    runner.run(close())
    plural = "s" if connections > 1 else ""
    what = f"{subscribers:,} subscriptions on {connections:,} connection{plural}"
    limit = {"at_least": 500_000} if subscribers == 1000 else {}
    report(f"{what}: deliveries", work.rate, "/s", **limit)
    report(f"{what}: server's CPU a delivery", work.cpu_micros, "µs")


def test_deliveries_to_tasks_of_a_client(
    benchmark: Any, report: Any, runner: asyncio.Runner, server: ServerProcess, client: rio.Client
) -> None:
    subscribers = 1000
    rings = DELIVERIES // subscribers // BATCH

    async def subscribe() -> None:
        for subscription in subscriptions:
            await stack.enter_async_context(subscription)

    async def read(subscription: rio.Subscription[Rang]) -> None:
        events: AsyncIterator[Rang] = aiter(subscription)
        for _ in range(rings * BATCH):
            await anext(events)

    async def ring() -> None:
        readers = asyncio.gather(*(read(subscription) for subscription in subscriptions))
        for _ in range(rings):
            await client.send(Bell, "bell", Ring(BATCH))
        await readers

    stack = AsyncExitStack()
    subscriptions = [client.subscribe(Bell, "bell", Rang) for _ in range(subscribers)]
    runner.run(subscribe())
    work = Work(lambda: runner.run(ring()), rings * BATCH * subscribers, server.pid, os.getpid())
    in_turn(benchmark, work, rounds=5)
    runner.run(stack.aclose())
    report(f"{subscribers:,} tasks of one client: deliveries", work.rate, "/s")
    report(
        f"{subscribers:,} tasks of one client: CPU a delivery, both sides", work.cpu_micros, "µs"
    )
