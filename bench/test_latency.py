"""How long does a call take while the server is half as busy as it can be?

Calls begin evenly, whether those before have been answered or not, and the clock runs from the moment at which a call was due: a stall is
felt by every call that it delays. Of five rounds the quietest counts: the tail is the first thing that other work on a machine spoils.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any, cast

import pytest

import rio
from bench.figures import Work
from bench.load import OBJECTS, activate, closed_loop, open_loop, percentile
from bench.processes import ServerProcess, pinned
from bench.workload import Ping, Room

IN_FLIGHT = 64
CALLS = 64 * 1000
SECONDS = 0.7


@pytest.fixture(autouse=True)
def _two_cores(server: ServerProcess) -> Iterator[None]:
    with pinned({os.getpid(): 0, server.pid: 1}):
        yield


def test_latency_at_half_of_saturation(
    benchmark: Any, report: Any, runner: asyncio.Runner, server: ServerProcess, storage_url: str
) -> None:
    async def with_client() -> None:
        async with rio.Client(storage_url) as client:
            await activate(client)
            await measure(client)

    async def measure(client: rio.Client) -> None:
        half = await rate(client) / 2

        def send(number: int) -> asyncio.Future[object]:
            id = str(number * 7919 % OBJECTS)
            return cast("asyncio.Future[object]", client.send(Room, id, Ping(id)))

        rounds.append((half, await open_loop(send, half, SECONDS)))

    async def rate(client: rio.Client) -> float:
        began = asyncio.get_running_loop().time()
        await closed_loop(client, CALLS, IN_FLIGHT)
        return CALLS / (asyncio.get_running_loop().time() - began)

    rounds: list[tuple[float, list[float]]] = []
    benchmark.pedantic(Work(lambda: runner.run(with_client()), 1), rounds=5)
    half, latencies = min(rounds, key=lambda round: percentile(round[1], 99.9))
    p50, p99, p999 = (percentile(latencies, percent) * 1e6 for percent in (50, 99, 99.9))
    report(f"p99 at {half:,.0f} calls/s", p99, "µs", beside=("p50", p50))
    report(f"p99.9 at {half:,.0f} calls/s", p999, "µs", beside=("p50", p50), ratio_at_most=5.0)
