"""How long does a call take while the server is half as busy as it can be?

Calls begin evenly, whether earlier calls have been answered or not, and the clock runs from the
moment at which a call was due: a stall shows in every call that it delays. In between, frames are
echoed in the same way at the same rate: their tail is the machine's, since an echo has next to no
software in it. The quietest round of each counts, because other work spoils the tail first.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import pytest

import rio
from bench.figures import Work
from bench.load import OBJECTS, Latencies, activate, closed_loop, open_loop, percentile
from bench.processes import ServerProcess, pinned
from bench.raw import TimedEchoClient
from bench.workload import Ping, Pong, Room

IN_FLIGHT = 64
CALLS = 64 * 1000
SECONDS = 0.7
ROUNDS = 7

numbers = itertools.count()


@pytest.fixture(autouse=True)
def _two_cores(server: ServerProcess, echo_server: ServerProcess) -> Iterator[None]:
    with pinned({os.getpid(): 0, server.pid: 1, echo_server.pid: 1}):
        yield


def test_latency_at_half_of_saturation(
    benchmark: Any,
    report: Any,
    runner: asyncio.Runner,
    server: ServerProcess,
    echo_server: ServerProcess,
    storage_url: str,
) -> None:
    async def measure() -> None:
        async with rio.Client(storage_url) as client:
            await activate(client)
            half = await rate(client) / 2
            rates.append(half)
            calls.append(await open_loop(partial(begin, client), half, SECONDS))
        echo_client = await TimedEchoClient.connect(echo_server.address)
        echoes.append(await open_loop(echo_client.begin, half, SECONDS))
        await echo_client.close()

    def quietest(rounds: list[list[float]]) -> tuple[float, float, float]:
        best = min(rounds, key=lambda latencies: percentile(latencies, 99.9))
        return percentile(best, 50) * 1e6, percentile(best, 99) * 1e6, percentile(best, 99.9) * 1e6

    rates: list[float] = []
    calls: list[list[float]] = []
    echoes: list[list[float]] = []
    benchmark.pedantic(Work(lambda: runner.run(measure()), 1), rounds=ROUNDS)
    (p50, p99, p999), echo = quietest(calls), quietest(echoes)
    at = f"at {statistics.median(rates):,.0f} calls/s"
    report(f"p50 {at}", p50, "µs", beside=("echo", echo[0]))
    report(f"p99 {at}", p99, "µs", beside=("echo", echo[1]))
    report(f"p99.9 {at}", p999, "µs", beside=("echo", echo[2]))
    report(f"p99.9 {at}", p999, "µs", beside=("p50", p50), ratio_at_most=5.0)
    report(f"p99.9 {at}: echo's", echo[2], "µs", beside=("p50", echo[0]))


async def rate(client: rio.Client) -> float:
    """The calls and the frames a second that the two processes can do."""
    began = time.perf_counter()
    await closed_loop(client, CALLS, IN_FLIGHT)
    return CALLS / (time.perf_counter() - began)


def begin(client: rio.Client, dues: list[float], latencies: Latencies) -> None:
    for due in dues:
        id = str(next(numbers) % OBJECTS)
        call = cast("asyncio.Future[Pong]", client.send(Room, id, Ping(id)))
        call.add_done_callback(partial(answered, latencies, due))


def answered(latencies: Latencies, due: float, call: asyncio.Future[Pong]) -> None:
    call.result()
    latencies.answered(due)
