"""The processes of a measurement: they end with it.

Linux tells from outside what they use.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

CPU_CLOCK_OF_A_PROCESS = 2
"""The low bits of a process's CPU clock id, as ``clock_getcpuclockid`` in C makes it."""

CORES = sorted(os.sched_getaffinity(0))


def cpu_seconds(pid: int) -> float:
    """The CPU seconds of all threads of a process, in steps of a nanosecond."""
    return time.clock_gettime(~pid << 3 | CPU_CLOCK_OF_A_PROCESS)


def resident_bytes(pid: int | str) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_bytes(pid: int) -> int:
    """The most bytes that were ever resident."""
    line = next(
        line
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


def open_files(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def pinned(places: Mapping[int, int]) -> Iterator[None]:
    """Keep each process on its own core, so that rounds differ by the software alone.

    The n-th process gets the n-th core that may be used. Left to itself, the kernel puts two
    processes that wake each other on one core or on two, as the rest of the machine's load
    suggests.
    """
    before = {pid: os.sched_getaffinity(pid) for pid in places}
    for pid, core in places.items():
        os.sched_setaffinity(pid, {CORES[core % len(CORES)]})
    try:
        yield
    finally:
        for pid, allowed in before.items():
            os.sched_setaffinity(pid, allowed)


class ServerProcess:
    """A Python module that prints ``listening host:port``. It ends when its standard input ends."""

    def __init__(self, module: str, *arguments: str, **variables: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        pipe, environment = subprocess.PIPE, {**os.environ, **variables}
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, env=environment
        )
        assert self._process.stdout is not None
        said = self._process.stdout.readline().split()
        if said[:1] != ["listening"]:
            self.stop()
            raise RuntimeError(
                f"{' '.join(command)} did not start, exit code {self._process.returncode}"
            )
        self.address: str = said[1]
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        self._process.communicate(timeout=30)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def node(storage: str, *options: str, security: Path | None = None) -> ServerProcess:
    """A server of :mod:`bench.workload`."""
    variables = {} if security is None else {"RIO_SECURITY": str(security)}
    return ServerProcess("bench.servers.node", "--storage", storage, *options, **variables)


def echo() -> ServerProcess:
    return ServerProcess("bench.servers.echo")
