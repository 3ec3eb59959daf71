"""What does a server do that gets more calls than it can run?

Calls begin evenly, at a multiple of what the handlers could do in that time, whether earlier calls
have ended or not; each has a second. Meanwhile another client makes a trivial call to an object of
its own now and then. Useful is a call that is answered in time.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

import pytest

import rio
from bench.figures import Work
from bench.load import percentile
from bench.processes import ServerProcess, node
from bench.workload import AsyncGrind, Grind, Mill, Touch
from rio.errors import Overloaded

SECONDS = 3.0
DEADLINE = 1.0
OBJECTS = 100
LOADS = [(cost, factor) for cost in (0.002, 0.020) for factor in (1.2, 2.0, 10.0)] + [
    (20e-6, 1.2),
    (20e-6, 2.0),
]
"""Seconds of a handler, and the load as a multiple of the capacity."""


class Overload(NamedTuple):
    useful: float
    """The part of the time of the server in which it did useful work."""
    refusals: list[float]
    """Seconds until ``Overloaded``, in ascending order."""
    slowest_bystander: float
    """Seconds of the slowest call of the client that sends little."""
    recovery: float
    """Seconds after the load until a call took less than twice its handler, and 50 ms."""


@asynccontextmanager
async def clients(url: str, count: int) -> AsyncIterator[list[rio.Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(rio.Client(url)) for _ in range(count)]


async def overload(
    url: str, message: type[Grind], cost: float, factor: float, senders: int
) -> Overload:
    ended: list[float] = []
    refusals: list[float] = []

    async def call(client: rio.Client, number: int) -> None:
        began = time.perf_counter()
        try:
            await client.send(Mill, f"{number % OBJECTS}", message(cost), timeout=DEADLINE)
            ended.append(time.perf_counter())
        except Overloaded:
            refusals.append(time.perf_counter() - began)
        except rio.RioError:
            pass  # it is none of the useful ones

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await bystander.send(Mill, "bystander", Touch(), timeout=30)
            looks.append(time.perf_counter() - began)
            await asyncio.sleep(0.05)

    async with clients(url, senders) as greedy, rio.Client(url) as bystander:
        for client, number in itertools.product(greedy, range(OBJECTS)):
            if number < 5 or client is greedy[0]:
                await client.send(Mill, f"{number}", message(0.0))
        await bystander.send(Mill, "bystander", Touch())
        looks: list[float] = []
        looker = asyncio.create_task(look())
        began, sent, rate = time.perf_counter(), 0, factor / cost
        calls: set[asyncio.Task[None]] = set()
        while (passed := time.perf_counter() - began) < SECONDS:
            for number in range(sent, int(passed * rate) + 1):
                task = asyncio.create_task(call(greedy[number % senders], number))
                calls.add(task)
                task.add_done_callback(calls.discard)
            sent = int(passed * rate) + 1
            await asyncio.sleep(0.001)
        over = time.perf_counter()
        useful = sum(began <= moment <= over for moment in ended) * cost / (over - began)
        while True:
            start = time.perf_counter()
            try:
                await greedy[0].send(Mill, "1", message(cost), timeout=30)
            except Overloaded:
                continue
            if time.perf_counter() - start < 2 * cost + 0.05:
                break
        recovery = time.perf_counter() - over
        await asyncio.gather(*calls)
        looker.cancel()
        await asyncio.gather(looker, return_exceptions=True)
        return Overload(useful, sorted(refusals), max(looks), recovery)


@pytest.mark.full
@pytest.mark.parametrize("senders", [1, 50])
@pytest.mark.parametrize(("cost", "factor"), LOADS)
@pytest.mark.parametrize("message", [Grind, AsyncGrind], ids=["def", "async"])
def test_a_server_with_more_calls_than_it_can_run(
    benchmark: Any,
    report: Any,
    runner: asyncio.Runner,
    storage_url: str,
    message: type[Grind],
    cost: float,
    factor: float,
    senders: int,
) -> None:
    results: list[Overload] = []

    def measure(server: ServerProcess) -> None:
        results.append(runner.run(overload(storage_url, message, cost, factor, senders)))
        assert server.alive, "it was evicted"

    with node(storage_url) as server:
        benchmark.pedantic(Work(lambda: measure(server), 1), rounds=1)
    [result] = results
    kind = "async def" if message is AsyncGrind else "def"
    what = f"{kind} of {cost * 1e3:g} ms x {factor:g}, {senders} client{'s' * (senders > 1)}"
    report(f"{what}: useful", 100 * result.useful, "%", at_least=80)
    report(f"{what}: refusals", len(result.refusals), "calls")
    if result.refusals:
        refusal = percentile(result.refusals, 99)
        report(f"{what}: a refusal, p99", 1e3 * refusal, "ms", at_most=50)
    slowest = 1e3 * result.slowest_bystander
    report(f"{what}: a bystander's slowest call", slowest, "ms", at_most=500)
    report(f"{what}: normal again after", result.recovery, "s", at_most=2)
