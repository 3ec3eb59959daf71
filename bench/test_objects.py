"""Does a call cost more with more objects in memory, more connections, or more registered types?

The figures are the CPU seconds of client and server together, compared with the smallest case. The
server keeps no placements, so that a million objects fit into a minute.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import rio
from bench.figures import Work, in_turn
from bench.load import activate, closed_loop, in_parallel
from bench.processes import ServerProcess, echo, node, pinned
from bench.raw import EchoClient, RawConnection
from bench.workload import Ping

CALLS = 64 * 1000
IN_FLIGHT = 64
FEW = 1000
CONNECTIONS = 1000
TYPES = 500


@contextmanager
def server_and_client(
    runner: asyncio.Runner, storage: str, *options: str, route_limit: int = 200_000
) -> Iterator[tuple[ServerProcess, rio.Client]]:
    with node(storage, "--grant", *options) as server:
        client = rio.Client(storage, route_limit=route_limit)
        runner.run(client.start())
        with pinned({os.getpid(): 0, server.pid: 1}):
            yield server, client
        runner.run(client.close())


def calls_to(
    runner: asyncio.Runner, client: rio.Client, server: ServerProcess, objects: int
) -> Work:
    """Call other objects in each round, as far as there are others."""
    rounds = itertools.count()

    async def calls() -> None:
        await closed_loop(
            client, CALLS, IN_FLIGHT, objects=objects, first=next(rounds) * CALLS // IN_FLIGHT
        )

    return Work(lambda: runner.run(calls()), CALLS, os.getpid(), server.pid)


@pytest.mark.parametrize("many", [100_000, pytest.param(1_000_000, marks=pytest.mark.full)])
def test_live_objects(
    benchmark: Any, report: Any, runner: asyncio.Runner, storage_url: str, many: int
) -> None:
    """The client may remember the placement of each object; by default it remembers 200,000."""
    with server_and_client(runner, storage_url, route_limit=4 * many) as (server, client):
        runner.run(activate(client, many))
        all_of_them, few = (calls_to(runner, client, server, objects) for objects in (many, FEW))
        in_turn(benchmark, all_of_them, few, rounds=7)
    report(
        f"a call to one of {many:,} objects",
        all_of_them.cpu_micros,
        "µs",
        beside=(f"of {FEW:,}", few.cpu_micros),
        ratio_at_most=1.3,
    )


@pytest.mark.full
def test_live_objects_beyond_what_a_client_remembers(
    benchmark: Any, report: Any, runner: asyncio.Runner, storage_url: str
) -> None:
    many = 1_000_000
    with server_and_client(runner, storage_url) as (server, client):
        runner.run(activate(client, many))
        all_of_them, few = (calls_to(runner, client, server, objects) for objects in (many, FEW))
        in_turn(benchmark, all_of_them, few, rounds=7)
    what = f"a call to one of {many:,} objects whose place is forgotten"
    report(what, all_of_them.cpu_micros, "µs", beside=(f"of {FEW:,}", few.cpu_micros))


def test_idle_connections(
    benchmark: Any, report: Any, runner: asyncio.Runner, tmp_path: Path
) -> None:
    """One client calls while 999 do not; beside it, a server that has only the one client."""

    async def connect(server: ServerProcess) -> list[RawConnection]:
        return [await RawConnection.connect(server.address) for _ in range(CONNECTIONS - 1)]

    quiet = server_and_client(runner, f"sqlite:///{tmp_path / 'quiet.db'}")
    crowded = server_and_client(runner, f"sqlite:///{tmp_path / 'crowded.db'}")
    with quiet as (server, client), crowded as (crowded_server, crowded_client):
        connections = runner.run(connect(crowded_server))
        alone, among_many = (
            calls_to(runner, *pair, FEW)
            for pair in ((client, server), (crowded_client, crowded_server))
        )
        in_turn(benchmark, among_many, alone, rounds=7)
        runner.run(close_all(connections))
    what = f"a call beside {CONNECTIONS - 1:,} idle connections"
    report(what, among_many.cpu_micros, "µs", beside=("alone", alone.cpu_micros), ratio_at_most=1.5)


def test_busy_connections(
    benchmark: Any, report: Any, runner: asyncio.Runner, storage_url: str
) -> None:
    """1,000 clients have one call in flight each, so that no two calls share a read or a write.

    Beside it: one client with one call in flight, and frames that are echoed over as many
    connections.
    """

    async def one_call_each(clients: list[rio.Client], calls: int) -> None:
        each = calls // len(clients)
        await asyncio.gather(
            *(
                closed_loop(client, each, 1, prefix=f"{place}-", objects=1)
                for place, client in enumerate(clients)
            )
        )

    async def one_frame_each(clients: list[EchoClient]) -> None:
        await asyncio.gather(*(client.run(CALLS // CONNECTIONS, 1) for client in clients))

    async def connect(
        stack: AsyncExitStack, address: str
    ) -> tuple[list[rio.Client], list[EchoClient]]:
        members = rio.open_storage(storage_url)
        await stack.enter_async_context(members)
        clients = [
            await stack.enter_async_context(rio.Client(members, refresh_interval=60.0))
            for _ in range(CONNECTIONS)
        ]
        echoing = [await EchoClient.connect(address) for _ in range(CONNECTIONS)]
        return clients, echoing

    with server_and_client(runner, storage_url) as (server, client), echo() as echo_server:
        stack = AsyncExitStack()
        clients, echoing = runner.run(connect(stack, echo_server.address))
        own = os.getpid()
        spread = Work(lambda: runner.run(one_call_each(clients, CALLS)), CALLS, own, server.pid)
        single = Work(lambda: runner.run(one_call_each([client], FEW)), FEW, own, server.pid)
        frames = Work(lambda: runner.run(one_frame_each(echoing)), CALLS, own, echo_server.pid)
        in_turn(benchmark, spread, single, frames, rounds=5)
        runner.run(stack.aclose())
        runner.run(close_all(echoing))
    what = f"a call on one of {CONNECTIONS:,} connections, all busy"
    report(
        what,
        spread.cpu_micros,
        "µs",
        beside=("on the only one", single.cpu_micros),
        ratio_at_most=1.5,
    )
    report(what, spread.cpu_micros, "µs", beside=("echo on as many", frames.cpu_micros))


def test_registered_types(
    benchmark: Any, report: Any, runner: asyncio.Runner, storage_url: str
) -> None:
    """500 more types are registered.

    The calls go to one of them; then, each call goes to another type than the one before.
    """
    names = [f"Room{number}" for number in range(TYPES)]

    def calls(client: rio.Client, types: int, server: ServerProcess) -> Work:
        async def call(number: int) -> None:
            id = str(number * 7919 % FEW)
            await client.send(names[number % types], id, Ping(id))

        return Work(
            lambda: runner.run(in_parallel(CALLS, IN_FLIGHT, call)), CALLS, os.getpid(), server.pid
        )

    with server_and_client(runner, storage_url, "--types", str(TYPES)) as (server, client):
        many, one = calls(client, TYPES, server), calls(client, 1, server)
        in_turn(benchmark, many, one, rounds=7)
    report(
        f"a call to one of {TYPES} types in turn",
        many.cpu_micros,
        "µs",
        beside=("to one type", one.cpu_micros),
        ratio_at_most=1.05,
    )


async def close_all(connections: list[RawConnection] | list[EchoClient]) -> None:
    for connection in connections:
        await connection.close()
