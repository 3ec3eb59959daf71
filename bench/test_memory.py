"""How much memory do a live object and a connection take while they do nothing?

The figures are the operating system's: the server's resident memory with many, less that with few.
The server keeps no placements. Python's own share is what an equal number of the same objects takes
without a server.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

import rio
from bench.figures import Work
from bench.load import activate
from bench.processes import node, peak_bytes, resident_bytes
from bench.raw import RawConnection
from bench.workload import EchoBlock, Room

KIB = 1024
CONNECTIONS = 1000

BARE = """
import sys
from bench.processes import resident_bytes
from bench.workload import Room
import os
count = int(sys.argv[1])
kept = [Room() for _ in range(1000)]
before = resident_bytes(os.getpid())
for number in range(count):
    room = Room()
    room.id = str(number)
    kept.append(room)
print((resident_bytes(os.getpid()) - before) / count)
"""


def bytes_of_a_bare_object(count: int) -> float:
    """An instance that knows its id, and its place in a list."""
    return float(
        subprocess.run(
            [sys.executable, "-c", BARE, str(count)], check=True, capture_output=True, text=True
        ).stdout
    )


@pytest.mark.parametrize("count", [100_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_live_objects(
    benchmark: Any, report: Any, runner: asyncio.Runner, storage_url: str, count: int
) -> None:
    with node(storage_url, "--grant") as server:

        async def with_client() -> None:
            async with rio.Client(storage_url) as client:
                await activate(client, 1000, prefix="warm-up-")
                before.append(resident_bytes(server.pid))
                await activate(client, count)

        before: list[int] = []
        activating = Work(lambda: runner.run(with_client()), count, server.pid)
        benchmark.pedantic(activating, rounds=1)
        total = (resident_bytes(server.pid) - before[0]) / count
        peak = (peak_bytes(server.pid) - before[0]) / count
    bare = bytes_of_a_bare_object(count)
    report(f"one of {count:,} live objects, all in all", total, "B", beside=("bare", bare))
    report(
        f"one of {count:,} live objects, beyond the object itself", total - bare, "B", at_most=600
    )
    report(
        f"one of {count:,} live objects, at the peak while they activate",
        peak,
        "B",
        beside=("bare", bare),
    )
    report("an activation without storage: server's CPU", activating.cpu_micros, "µs")


@pytest.mark.parametrize("used", [False, True], ids=["new", "used"])
def test_idle_connections(
    benchmark: Any, report: Any, runner: asyncio.Runner, storage_url: str, used: bool
) -> None:
    """The memory of the process. The kernel's buffers come on top.

    The connections that were used have carried 64 KiB each way, one after the other.
    """
    with node(storage_url) as server:

        async def connect(count: int) -> list[RawConnection]:
            return [await made() for _ in range(count)]

        async def made() -> RawConnection:
            connection = await RawConnection.connect(server.address)
            if used:
                connection.request(1, Room, "1", EchoBlock(bytes(64 * KIB)))
                await connection.arrival(2)
            return connection

        async def close(connections: list[RawConnection]) -> None:
            for connection in connections:
                await connection.close()

        warm_up = runner.run(connect(10))
        before = resident_bytes(server.pid)
        connections: list[RawConnection] = []
        benchmark.pedantic(lambda: connections.extend(runner.run(connect(CONNECTIONS))), rounds=1)
        runner.run(asyncio.sleep(1.0))  # they count as idle only then
        each = (resident_bytes(server.pid) - before) / CONNECTIONS
        runner.run(close(connections + warm_up))
    report(
        f"one of {CONNECTIONS:,} idle connections{', used before' if used else ''}",
        each / KIB,
        "KiB",
        at_most=50,
    )
