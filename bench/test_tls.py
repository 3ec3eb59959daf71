"""What does encryption cost a server: a call, with 1, 64 and 1,024 in flight, and a connection?

Beside it, the same calls without security, and raw frames that uvloop echoes. Encryption by the key
needs Python 3.13.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rio
from bench.figures import Work, in_turn
from bench.load import activate, closed_loop
from bench.processes import ServerProcess, node, pinned
from bench.raw import EchoClient
from bench.workload import Ping, Room
from rio.security.tls import CAN_USE_KEYS

CALLS = {1: 1_000, 64: 64 * 300, 1024: 1024 * 30}
CONNECTIONS = 100
ADDED = {64: 1.3}
"""Microseconds that encryption may add to the server's CPU time of a call."""


class Way(NamedTuple):
    """A server and a client, and how they are connected."""

    server: ServerProcess
    client: rio.Client
    connect: Callable[[], rio.Client]


def write_security(folder: Path, encryption: str) -> Path:
    """A security file with one key."""
    file = folder / "security.toml"
    keygen = [sys.executable, "-m", "rio", "keygen", file]
    subprocess.run(
        [*keygen, *(["--certificates"] if encryption == "certificates" else [])],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return file


@pytest.fixture(scope="module")
def ways(
    runner: asyncio.Runner, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Way]]:
    """Servers without security, with encryption by certificates, and by the key."""
    with ExitStack() as stack:
        made = {}
        for name in ["plain", "certificates", *(["key"] if CAN_USE_KEYS else [])]:
            folder = tmp_path_factory.mktemp(name)
            url = f"sqlite:///{folder / 'rio.db'}"
            security = None if name == "plain" else write_security(folder, name)
            server = stack.enter_context(node(url, security=security))

            def connect(url: str = url, security: Path | None = security) -> rio.Client:
                return rio.Client(url, security=security)

            client = connect()
            runner.run(client.start())
            stack.callback(lambda client=client: runner.run(client.close()))
            runner.run(activate(client))
            made[name] = Way(server, client, connect)
        yield made


@pytest.fixture(autouse=True)
def _two_cores(ways: dict[str, Way], echo_server: ServerProcess) -> Iterator[None]:
    servers = [echo_server, *(way.server for way in ways.values())]
    with pinned({os.getpid(): 0, **dict.fromkeys((server.pid for server in servers), 1)}):
        yield


@pytest.mark.parametrize("in_flight", list(CALLS))
def test_call(
    benchmark: Any,
    report: Any,
    runner: asyncio.Runner,
    ways: dict[str, Way],
    echo_server: ServerProcess,
    in_flight: int,
) -> None:
    calls = CALLS[in_flight]
    echo_client = runner.run(EchoClient.connect(echo_server.address))
    frames = Work(lambda: runner.run(echo_client.run(calls, in_flight)), calls, echo_server.pid)
    works = {
        name: Work(
            lambda client=way.client: runner.run(closed_loop(client, calls, in_flight, Ping)),
            calls,
            way.server.pid,
        )
        for name, way in ways.items()
    }
    in_turn(benchmark, works["plain"], *list(works.values())[1:], frames, rounds=7)
    runner.run(echo_client.close())
    for name, work in works.items():
        what = f"{in_flight} in flight, {name}"
        beside = ("plain", works["plain"])
        if name == "plain":
            beside = ("echo", frames)
        report(
            f"{what}: the server's CPU a call",
            work.cpu_micros,
            "µs",
            beside=(beside[0], beside[1].cpu_micros),
        )
        report(f"{what}: calls", work.rate, "/s", beside=(beside[0], beside[1].rate))
        if name != "plain" and in_flight in ADDED:
            report(
                f"{what}: what it adds",
                work.cpu_micros - works["plain"].cpu_micros,
                "µs",
                at_most=ADDED[in_flight],
            )


def test_connection(
    benchmark: Any, report: Any, runner: asyncio.Runner, ways: dict[str, Way]
) -> None:
    async def connect(way: Way) -> None:
        for number in range(CONNECTIONS):
            async with way.connect() as client:
                await client.send(Room, str(number), Ping(""))

    works = {
        name: Work(lambda way=way: runner.run(connect(way)), CONNECTIONS, way.server.pid)
        for name, way in ways.items()
    }
    in_turn(benchmark, works["plain"], *list(works.values())[1:], rounds=5)
    for name, work in works.items():
        beside = ("plain", works["plain"].cpu_micros) if name != "plain" else ("", 0.0)
        report(f"{name}: the server's CPU a connection", work.cpu_micros, "µs", beside=beside)
