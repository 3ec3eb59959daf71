"""What happens to a node when one of its objects sends 40,000 calls at once?

They go to a thousand objects of the same node, either in one `gather` or in slices of 4,000, one
after the other. Meanwhile another client makes a trivial call again and again.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import rio

CALLS = 40_000
SLICE = 4_000
ROUNDS = 3


class Fan(rio.Message[float]):
    """Call objects of ``kind``, ``slice`` at once. Returns the seconds."""

    kind: str
    slice: int


class Ping(rio.Message[int]):
    pass


class Leaf(rio.ServiceObject):
    @rio.handler
    def ping(self, message: Ping) -> int:
        return 1


class AsyncLeaf(rio.ServiceObject):
    @rio.handler
    async def ping(self, message: Ping) -> int:
        await asyncio.sleep(0)
        return 1


class Root(rio.ServiceObject):
    @rio.handler
    async def fan(self, message: Fan) -> float:
        began = time.perf_counter()
        for start in range(0, CALLS, message.slice):
            numbers = range(start, start + message.slice)
            await asyncio.gather(
                *(self.send(message.kind, f"{n % 1000}", Ping(), returns=int) for n in numbers)
            )
        return time.perf_counter() - began


async def bystand(client: rio.Client, slowest: list[float]) -> None:
    """Call an object of one's own every 10 ms, and note how long the slowest call took."""
    while True:
        began = time.perf_counter()
        await client.send(Leaf, "bystander", Ping())
        slowest[0] = max(slowest[0], time.perf_counter() - began)
        await asyncio.sleep(0.01)


async def fan_out(kind: type[rio.ServiceObject]) -> tuple[float, float, float]:
    """The seconds of the fan-out in slices, those at once, and those of the slowest bystander."""
    registry = rio.Registry(Root, Leaf, AsyncLeaf)
    slowest, sliced, whole = [0.0], [], []
    async with rio.Server(registry, storage="memory://", address="127.0.0.1:0") as server:

        async def fan(slice: int) -> float:
            message = Fan(kind.__name__, slice)
            return await server.client.send(Root, "root", message, timeout=60)

        await fan(SLICE)
        bystander = asyncio.create_task(bystand(server.client, slowest))
        for _ in range(ROUNDS):
            sliced.append(await fan(SLICE))
            whole.append(await fan(CALLS))
        bystander.cancel()
    return min(sliced), min(whole), slowest[0]


@pytest.mark.parametrize("kind", [Leaf, AsyncLeaf], ids=["def", "async"])
def test_a_fan_out(
    benchmark: Any, report: Any, runner: asyncio.Runner, kind: type[rio.ServiceObject]
) -> None:
    results: list[tuple[float, float, float]] = []
    benchmark.pedantic(lambda: results.append(runner.run(fan_out(kind))), rounds=1)
    [(sliced, whole, slowest)] = results
    what = f"{CALLS:,} calls of one turn to {'async ' * (kind is AsyncLeaf)}def handlers"
    report(
        f"{what}, at once", whole, "s", beside=(f"slices of {SLICE:,}", sliced), ratio_at_most=1.5
    )
    report(f"{what}: a bystander's slowest call", 1e3 * slowest, "ms", at_most=500)
