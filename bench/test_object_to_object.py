"""What does a call cost that an object makes, to its own node and to another?

A client's call stands beside it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest

import rio
from bench.figures import Work, in_turn
from bench.load import OBJECTS, activate, closed_loop
from bench.processes import ServerProcess, node, pinned
from bench.workload import Drive, Driver, Where

CALLS = 64 * 1000
IN_FLIGHT = 64


@pytest.fixture
def client(runner: asyncio.Runner, server: ServerProcess, storage_url: str) -> Iterator[rio.Client]:
    client = rio.Client(storage_url)
    runner.run(client.start())
    yield client
    runner.run(client.close())


def drive(runner: asyncio.Runner, client: rio.Client, driver: str, prefix: str, *pids: int) -> Work:
    message = Drive(prefix, OBJECTS, CALLS, IN_FLIGHT)
    return Work(lambda: runner.run(call(client, driver, message)), CALLS, *pids)


async def call(client: rio.Client, driver: str, message: Drive) -> None:
    await client.send(Driver, driver, message, timeout=120.0)


def test_same_node(
    benchmark: Any, report: Any, runner: asyncio.Runner, server: ServerProcess, client: rio.Client
) -> None:
    runner.run(activate(client))
    neighbours = drive(runner, client, "driver", "", server.pid)
    from_outside = Work(
        lambda: runner.run(closed_loop(client, CALLS, IN_FLIGHT)), CALLS, os.getpid(), server.pid
    )
    with pinned({os.getpid(): 0, server.pid: 1}):
        in_turn(benchmark, neighbours, from_outside, rounds=7)
    what = "to an object on the same node: CPU"
    report(
        what,
        neighbours.cpu_micros,
        "µs",
        beside=("client's call", from_outside.cpu_micros),
        at_most=3.0,
    )


def test_another_node(
    benchmark: Any, report: Any, runner: asyncio.Runner, server: ServerProcess, storage_url: str
) -> None:
    """The caller lives on one of two nodes, and the objects that it calls live on the other."""
    with node(storage_url) as other:
        client = rio.Client(storage_url)
        runner.run(client.start())
        here, there = runner.run(a_driver_on_each(client, server, other))
        runner.run(
            call(client, there, Drive("there-", OBJECTS, OBJECTS, 1))
        )  # puts them where their driver is
        runner.run(activate(client, prefix="there-"))
        remote = drive(runner, client, here, "there-", server.pid, other.pid)
        from_outside = Work(
            lambda: runner.run(closed_loop(client, CALLS, IN_FLIGHT, prefix="there-")),
            CALLS,
            os.getpid(),
            other.pid,
        )
        with pinned({os.getpid(): 0, server.pid: 0, other.pid: 1}):
            in_turn(benchmark, remote, from_outside, rounds=7)
        runner.run(client.close())
    what = "to an object on another node: CPU"
    report(
        what,
        remote.cpu_micros,
        "µs",
        beside=("client's call", from_outside.cpu_micros),
        ratio_at_most=1.2,
    )


async def a_driver_on_each(client: rio.Client, *servers: ServerProcess) -> list[str]:
    """The ids of two drivers, the first of which is on the first server."""
    found: dict[str, str] = {}
    for number in range(100):
        id = f"driver-{number}"
        found.setdefault(await client.send(Driver, id, Where()), id)
    return [found[server.address] for server in servers]
