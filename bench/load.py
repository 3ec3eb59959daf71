"""Load in two forms: closed and open.

Closed: a number of tasks, each of which makes one call after the other. Open: calls that begin at
given moments, whether earlier calls have ended or not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import rio
from bench.workload import Ping, PlainPing, Room

OBJECTS = 1000


STRIDE = 7919
"""The distance between the objects at which two tasks begin.

A task that makes fewer calls than this meets no object of another task.
"""


async def closed_loop(
    client: rio.Client,
    calls: int,
    in_flight: int,
    message: type[Ping] | type[PlainPing] = Ping,
    objects: int = OBJECTS,
    prefix: str = "",
    first: int = 0,
) -> None:
    """Make calls in ``in_flight`` tasks, each to the next object, from ``first`` on.

    A task sends its next call when its last one has been answered.
    """

    async def caller(number: int) -> None:
        for call in range(calls // in_flight):
            id = f"{prefix}{(first + number * STRIDE + call) % objects}"
            reply = await client.send(Room, id, message(id))
            assert reply.ping_id == id

    await asyncio.gather(*(caller(number) for number in range(in_flight)))


async def activate(
    client: rio.Client, objects: int = OBJECTS, prefix: str = "", in_flight: int = 256
) -> None:
    """Bring these objects to memory."""
    await in_parallel(
        objects, in_flight, lambda number: client.send(Room, f"{prefix}{number}", Ping(""))
    )


async def in_parallel(count: int, width: int, work: Callable[[int], Awaitable[object]]) -> None:
    """Run ``work(0)`` to ``work(count - 1)`` in ``width`` tasks."""
    numbers = iter(range(count))

    async def worker() -> None:
        for number in numbers:
            await work(number)

    await asyncio.gather(*(worker() for _ in range(width)))


class Latencies:
    """The seconds from each call's due moment to its answer; complete once all are answered."""

    def __init__(self, calls: int) -> None:
        self.seconds: list[float] = []
        self.all_answered = asyncio.Event()
        self._calls = calls

    def answered(self, due: float) -> None:
        self.seconds.append(time.perf_counter() - due)
        if len(self.seconds) == self._calls:
            self.all_answered.set()


async def open_loop(
    begin: Callable[[list[float], Latencies], None], rate: float, seconds: float
) -> list[float]:
    """Begin calls evenly at ``rate`` a second; all latencies in seconds, in ascending order.

    ``begin(dues, latencies)`` begins a call for each moment in ``dues``. Each call tells its moment
    to :meth:`Latencies.answered`. A latency counts from the moment at which the call was due, so a
    stall shows in all calls that it delays. The task never sleeps, since a timer wakes too late; it
    yields to the loop between two looks at the clock.
    """
    calls, sent = int(rate * seconds), 0
    latencies, began = Latencies(calls), time.perf_counter()
    while sent < calls:
        due = min(calls, int((time.perf_counter() - began) * rate) + 1)
        if due > sent:
            begin([began + number / rate for number in range(sent, due)], latencies)
        sent = due
        await asyncio.sleep(0)
    await latencies.all_answered.wait()
    return sorted(latencies.seconds)


def percentile(ordered: list[float], percent: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
