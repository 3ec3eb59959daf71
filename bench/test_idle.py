"""What do many idle objects cost, while they stay and as they leave?

One server in this process, in virtual time. A look at the objects must never hold the event loop
for long, however many there are.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

import rio
from bench.figures import Work
from bench.load import activate
from bench.workload import Room, registry
from rio.testing import LocalCluster, run

IDLE_AFTER = 900.0


class Ticks:
    """The looks of one server at its idle objects, in seconds of the CPU."""

    def __init__(self, server: rio.Server) -> None:
        idle: Any = server._catalog.idle
        self._tick = idle.tick
        self.seconds: list[float] = []
        idle.tick = self

    def __call__(self, **options: Any) -> None:
        began = time.thread_time()
        self._tick(**options)
        self.seconds.append(time.thread_time() - began)


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_idle_objects(benchmark: Any, report: Any, count: int) -> None:
    ticks: list[Ticks] = []

    async def live_and_leave() -> None:
        config = rio.ServerConfig(idle_after=IDLE_AFTER)
        async with LocalCluster(registry(), nodes=1, config=config) as cluster:
            (node,) = cluster.nodes
            ticks.append(Ticks(node.server))
            await activate(cluster.client, count)
            assert node.statistics().live_objects == count
            await asyncio.sleep(IDLE_AFTER * 17 / 16 + 2 + 1.2 * count / 1000)
            assert node.statistics().live_objects == 0
            assert await cluster.client.send(Room, "0", rio.DynamicMessage("Ping", {"ping_id": ""}))

    benchmark.pedantic(Work(lambda: run(live_and_leave()), count), rounds=1)
    report(
        f"the longest look at {count:,} idle objects",
        1000 * max(ticks[0].seconds),
        "ms",
        at_most=20.0,
    )
    report(
        f"all looks at {count:,} idle objects, for each object",
        1_000_000 * sum(ticks[0].seconds) / count,
        "µs",
    )
