"""How much data passes in a second with messages of 64 B, 64 KiB or 1 MiB both ways?

Beside it, uvloop echoes the same blocks.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

import rio
from bench.figures import Work, in_turn
from bench.load import in_parallel
from bench.processes import ServerProcess, pinned
from bench.raw import EchoClient
from bench.workload import EchoBlock, Room

KIB = 1024
SIZES = {64: (20_000, 64), 64 * KIB: (2_000, 16), KIB * KIB: (200, 4)}


@pytest.mark.parametrize("size", SIZES, ids=["64 B", "64 KiB", "1 MiB"])
def test_blocks_both_ways(
    benchmark: Any,
    report: Any,
    runner: asyncio.Runner,
    server: ServerProcess,
    echo_server: ServerProcess,
    storage_url: str,
    size: int,
) -> None:
    calls, in_flight = SIZES[size]
    block = EchoBlock(bytes(size))
    frame = size.to_bytes(4, "big") + bytes(size)
    client = rio.Client(storage_url)
    runner.run(client.start())
    echo_client = runner.run(EchoClient.connect(echo_server.address))

    async def call(number: int) -> None:
        reply = await client.send(Room, str(number % in_flight), block)
        assert len(reply.data) == size

    ours = Work(
        lambda: runner.run(in_parallel(calls, in_flight, call)), calls, os.getpid(), server.pid
    )
    frames = Work(
        lambda: runner.run(echo_client.run(calls, in_flight, frame)),
        calls,
        os.getpid(),
        echo_server.pid,
    )
    with pinned({os.getpid(): 0, server.pid: 1, echo_server.pid: 1}):
        in_turn(benchmark, ours, frames, rounds=5)
    runner.run(client.close())
    runner.run(echo_client.close())
    name = f"{size} B" if size < KIB else f"{size // KIB} KiB"
    limit = {"at_least": 1.0} if size == KIB * KIB else {}
    report(
        f"{name} each way, sum of both",
        2 * size * ours.rate / 1e9,
        "GB/s",
        beside=("echo", 2 * size * frames.rate / 1e9),
        **limit,
    )
    report(
        f"{name} each way: CPU a call", ours.cpu_micros, "µs", beside=("echo", frames.cpu_micros)
    )
