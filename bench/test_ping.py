"""What does a call between two processes cost, with 1, 64 and 1,024 in flight?

Beside it, uvloop echoes raw frames.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import rio
from bench.figures import Work, in_turn
from bench.load import activate, closed_loop
from bench.processes import ServerProcess, node, pinned
from bench.raw import EchoClient
from bench.workload import Ping, PlainPing

CALLS = {1: 4_000, 64: 64 * 1_000, 1024: 1024 * 100}
RATE = {64: 250_000, 1024: 400_000}
MESSAGES = pytest.mark.parametrize("message", [Ping, PlainPing], ids=["async", "plain"])


@pytest.fixture(scope="module")
def client(runner: asyncio.Runner, server: ServerProcess, storage_url: str) -> Iterator[rio.Client]:
    client = rio.Client(storage_url)
    runner.run(client.start())
    runner.run(activate(client))
    yield client
    runner.run(client.close())


@pytest.fixture(scope="module")
def echo_client(runner: asyncio.Runner, echo_server: ServerProcess) -> Iterator[EchoClient]:
    client = runner.run(EchoClient.connect(echo_server.address))
    yield client
    runner.run(client.close())


@pytest.fixture(scope="module")
def awake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ServerProcess]]:
    """With ``latency="low"``, and the URL of its storage."""
    url = f"sqlite:///{tmp_path_factory.mktemp('bench') / 'rio.db'}"
    with node(url, "--latency", "low") as process:
        yield url, process


@pytest.fixture(scope="module")
def awake_client(
    runner: asyncio.Runner, awake_server: tuple[str, ServerProcess]
) -> Iterator[rio.Client]:
    client = rio.Client(awake_server[0], latency="low")
    runner.run(client.start())
    runner.run(activate(client))
    yield client
    runner.run(client.close())


@pytest.fixture(autouse=True)
def _two_cores(server: ServerProcess, echo_server: ServerProcess) -> Iterator[None]:
    with pinned({os.getpid(): 0, server.pid: 1, echo_server.pid: 1}):
        yield


@pytest.fixture
def works(
    runner: asyncio.Runner,
    client: rio.Client,
    server: ServerProcess,
    echo_client: EchoClient,
    echo_server: ServerProcess,
) -> Callable[[type[Ping] | type[PlainPing], int], tuple[Work, Work]]:
    """The calls, and the frames that they are compared with."""

    def make(message: type[Ping] | type[PlainPing], in_flight: int) -> tuple[Work, Work]:
        calls, own = CALLS[in_flight], os.getpid()
        ours = Work(
            lambda: runner.run(closed_loop(client, calls, in_flight, message)),
            calls,
            own,
            server.pid,
        )
        frames = Work(
            lambda: runner.run(echo_client.run(calls, in_flight)), calls, own, echo_server.pid
        )
        return ours, frames

    return make


@MESSAGES
@pytest.mark.parametrize("in_flight", [64, 1024])
def test_many_in_flight(
    benchmark: Any, report: Any, works: Any, message: type[Ping] | type[PlainPing], in_flight: int
) -> None:
    ours, frames = works(message, in_flight)
    in_turn(benchmark, ours, frames, rounds=7)
    what = f"{in_flight} in flight, {'async def' if message is Ping else 'def'}"
    report(
        f"{what}: CPU a call",
        ours.cpu_micros,
        "µs",
        beside=("echo", frames.cpu_micros),
        at_most=4.0,
    )
    report(
        f"{what}: calls", ours.rate, "/s", beside=("echo", frames.rate), at_least=RATE[in_flight]
    )


@MESSAGES
def test_one_in_flight(
    benchmark: Any, report: Any, works: Any, message: type[Ping] | type[PlainPing]
) -> None:
    """Each side sleeps while the other works, so this is mostly the time to wake a core."""
    ours, frames = works(message, 1)
    in_turn(benchmark, ours, frames, rounds=9)
    what = f"1 in flight, {'async def' if message is Ping else 'def'}"
    report(f"{what}: calls", ours.rate, "/s", beside=("echo", frames.rate), ratio_at_least=0.8)


@MESSAGES
@pytest.mark.parametrize("in_flight", [1, 64])
def test_low_latency(
    benchmark: Any,
    report: Any,
    works: Any,
    runner: asyncio.Runner,
    awake_client: rio.Client,
    awake_server: tuple[str, ServerProcess],
    message: type[Ping] | type[PlainPing],
    in_flight: int,
) -> None:
    """With ``latency="low"`` no side sleeps between two calls."""
    usual, _ = works(message, in_flight)
    calls, (_, server) = CALLS[in_flight], awake_server
    awake = Work(
        lambda: runner.run(closed_loop(awake_client, calls, in_flight, message)),
        calls,
        os.getpid(),
        server.pid,
    )
    with pinned({server.pid: 1}):
        in_turn(benchmark, awake, usual, rounds=9)
    what = f'{in_flight} in flight, latency="low", {"async def" if message is Ping else "def"}'
    report(f"{what}: calls", awake.rate, "/s", beside=("normal", usual.rate))
    report(f"{what}: CPU a call", awake.cpu_micros, "µs", beside=("normal", usual.cpu_micros))


@MESSAGES
def test_one_in_flight_with_both_processes_on_one_core(
    benchmark: Any,
    report: Any,
    works: Any,
    server: ServerProcess,
    echo_server: ServerProcess,
    message: type[Ping] | type[PlainPing],
) -> None:
    """No process waits for a core to wake up, so this is the time of kernel, loop and ``rio``."""
    ours, frames = works(message, 1)
    with pinned({os.getpid(): 0, server.pid: 0, echo_server.pid: 0}):
        in_turn(benchmark, ours, frames, rounds=9)
    what = f"1 in flight on one core, {'async def' if message is Ping else 'def'}"
    report(f"{what}: CPU a call", ours.cpu_micros, "µs", beside=("echo", frames.cpu_micros))
