"""rio-rs: an object that is found by its name in a cluster of one server, its storages in memory.

Both ends are the program in ``rust/``; this module starts it, and hands its figures over.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.peers.worker import KINDS_OF_WORK, Laps

TITLE = "rio-rs 0.7.2, storages in memory"
WORKS = KINDS_OF_WORK[:2]
PROGRAM = Path(sys.prefix).parent / "rust" / "release" / "rio-rs-peer"
LEFT_OUT = "" if PROGRAM.exists() else "cargo is missing, which builds it"


def serve(ready: Callable[[str], None], storages: str = "memory") -> None:
    with subprocess.Popen([PROGRAM, "serve", storages], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        ready(server.stdout.readline().decode().strip())


def drive(address: str, laps: Laps, storages: str = "memory") -> None:
    command = [PROGRAM, "drive", storages, laps.work, address]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        for lap in laps:
            client.stdin.write(b"%d %f\n" % (lap.in_flight, lap.seconds))
            client.stdin.flush()
            count = int.from_bytes(client.stdout.read(8), sys.byteorder)
            lap.latencies.frombytes(client.stdout.read(count * lap.latencies.itemsize))
