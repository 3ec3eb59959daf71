"""Does a server grow, or slow down, while it works?

::

    make soak MINUTES=10

One server process on an SQLite file has a steady load for minutes, on objects that come and go.
Half of the calls go to objects that stay. The others go to guests: a guest is activated by its
first call, is called and saved, and leaves; then another id takes its place. Every interval prints
what Linux and the server itself say of the server process. The run fails if, after the first fifth
of the time, one of these limits is exceeded:

=================  =============================================================================
resident memory    the line fitted through it rises by at most 2 MiB, or 2 % of its mean, in all
open files, tasks  no more at the end than at the beginning, but for a few that the load opens
                   and closes
live objects       as many as the load keeps alive, and those that are just leaving
p99                that of the last third is at most twice that of the first
=================  =============================================================================
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable

import msgspec

import rio
from bench.load import OBJECTS, activate, percentile
from bench.processes import cpu_seconds, node, open_files, resident_bytes
from bench.workload import Guest, Health, Increment, Leave, Look, Nurse, Ping, Room

MIB = 1024 * 1024
CALLERS = 16
"""The number of tasks that call rooms, and of tasks that each keep a guest."""
CALLS_A_GUEST = 20
PAUSE = 0.004
"""Seconds between two calls of a task: the load is steady, and the server far from saturated."""
SAMPLES = 60
GROWTH = 2 * MIB
GROWTH_RATIO = 0.02
SLACK = 3
"""Files or tasks more than at the beginning: the storage's, or those of a guest that is leaving."""
SLOWER = 2.0


class Sample(msgspec.Struct):
    """One interval."""

    at: float
    """Seconds since the start."""
    calls: int
    p50: float
    p99: float
    cpu: float
    """The server's share of one core."""
    resident: int
    files: int
    health: Health
    own_resident: int
    """The share of the process that makes the load."""


class Load:
    """Calls in many tasks, one after the other in each; and how long each call took."""

    def __init__(self, client: rio.Client) -> None:
        self._client = client
        self._ids = itertools.count()
        self._latencies: list[float] = []

    def taken(self) -> list[float]:
        """The latencies since the last time, in ascending order."""
        latencies, self._latencies = self._latencies, []
        return sorted(latencies)

    async def visit_rooms(self, start: int) -> None:
        for number in itertools.count(start):
            id = str(number * 7919 % OBJECTS)
            await self._call(Room, id, Ping(id))

    async def be_guests(self) -> None:
        while True:
            id = f"guest-{next(self._ids)}"
            for _ in range(CALLS_A_GUEST - 2):
                await self._call(Guest, id, Ping(id))
            await self._call(Guest, id, Increment())
            await self._call(Guest, id, Leave())

    async def _call(
        self, object_type: type[rio.ServiceObject], id: str, message: rio.Message[object]
    ) -> None:
        began = time.perf_counter()
        await self._client.send(object_type, id, message)
        self._latencies.append(time.perf_counter() - began)
        await asyncio.sleep(PAUSE)


async def soak(seconds: float) -> list[Sample]:
    with tempfile.TemporaryDirectory(prefix="rio-soak-") as directory:
        storage = f"sqlite:///{directory}/rio.db"
        with node(storage) as server:
            # With this limit the client's placement cache is full soon, and its size as steady as
            # the server's.
            async with rio.Client(storage, route_limit=4 * OBJECTS) as client:
                return await sampled(client, server.pid, seconds)


async def sampled(client: rio.Client, pid: int, seconds: float) -> list[Sample]:
    """Run the load, and take samples evenly."""
    load = Load(client)
    await activate(client)
    samples: list[Sample] = []
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.visit_rooms(number * 31)) for number in range(CALLERS)]
        tasks += [group.create_task(load.be_guests()) for _ in range(CALLERS)]
        began, interval = time.monotonic(), seconds / SAMPLES
        used = cpu_seconds(pid)
        for number in range(1, SAMPLES + 1):
            await asyncio.sleep(began + number * interval - time.monotonic())
            before, used = used, cpu_seconds(pid)
            samples.append(
                await sample(
                    client, load, pid, time.monotonic() - began, (used - before) / interval
                )
            )
            show(samples[-1])
        for task in tasks:
            task.cancel()
    return samples


async def sample(client: rio.Client, load: Load, pid: int, at: float, cpu: float) -> Sample:
    latencies = load.taken()
    health = await client.send(Nurse, "nurse", Look())
    p50, p99 = percentile(latencies, 50), percentile(latencies, 99)
    return Sample(
        at,
        len(latencies),
        p50,
        p99,
        cpu,
        resident_bytes(pid),
        open_files(pid),
        health,
        resident_bytes("self"),
    )


HEAD = " seconds    calls   p50 µs   p99 µs   CPU  RSS MiB  files  tasks  objects  own RSS"


def show(sample: Sample) -> None:
    latencies = f"{sample.p50 * 1e6:8,.0f} {sample.p99 * 1e6:8,.0f}"
    memory, own = f"{sample.resident / MIB:8.2f}", f"{sample.own_resident / MIB:8.2f}"
    counts = f"{sample.files:6} {sample.health.tasks:6} {sample.health.live_objects:8}"
    print(
        f"{sample.at:8.1f} {sample.calls:8,} {latencies} {sample.cpu:5.0%} {memory} {counts} {own}",
        flush=True,
    )


# --- the verdict ----------------------------------------------------------------------------------


def verdict(samples: list[Sample]) -> bool:
    """Print how each figure moved after the warm-up; whether all are within their bounds."""
    steady = samples[len(samples) // 5 :]
    third = len(steady) // 3
    first, last = steady[:third], steady[-third:]
    checks = [
        growth("resident memory of the server", steady, lambda sample: sample.resident),
        growth("resident memory of the client", steady, lambda sample: sample.own_resident),
        count("open files", first, last, lambda sample: sample.files),
        count("tasks", first, last, lambda sample: sample.health.tasks),
        count("live objects", first, last, lambda sample: sample.health.live_objects),
        drift(first, last),
    ]
    print(f"\n{sum(sample.calls for sample in samples):,} calls")
    for good, text in checks:
        print(f"  {'good' if good else 'BAD ':4}  {text}")
    return all(good for good, _ in checks)


def growth(what: str, steady: list[Sample], size: Callable[[Sample], int]) -> tuple[bool, str]:
    times, sizes = [sample.at for sample in steady], [size(sample) for sample in steady]
    slope = statistics.linear_regression(times, sizes).slope
    grown, allowed = (
        slope * (times[-1] - times[0]),
        max(GROWTH, GROWTH_RATIO * statistics.mean(sizes)),
    )
    text = (
        f"{what}: {slope * 60 / 1024:+,.1f} KiB a minute,"
        f" {grown / MIB:+.2f} MiB in all (at most {allowed / MIB:.2f})"
    )
    return grown <= allowed, text


def count(
    what: str, first: list[Sample], last: list[Sample], number: Callable[[Sample], int]
) -> tuple[bool, str]:
    before, after = statistics.median(map(number, first)), statistics.median(map(number, last))
    return (
        after <= before + SLACK,
        f"{what}: {before:g} in the first third, {after:g} in the last (at most {SLACK} more)",
    )


def drift(first: list[Sample], last: list[Sample]) -> tuple[bool, str]:
    before, after = (
        statistics.median(sample.p99 for sample in third) * 1e6 for third in (first, last)
    )
    return (
        after <= SLOWER * before,
        f"p99: {before:,.0f} µs in the first third, {after:,.0f} µs in the last"
        f" (at most {SLOWER:g} times)",
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("minutes", type=float, nargs="?", default=10.0)
    options = parser.parse_args()
    print(HEAD)
    return 0 if verdict(rio.run(soak(options.minutes * 60))) else 1


if __name__ == "__main__":
    sys.exit(main())
