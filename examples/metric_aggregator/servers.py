"""The server processes of the demo, started with ``python -m rio run`` as a user starts them."""

from __future__ import annotations

import asyncio
import re
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Self

ROOT = Path(__file__).parents[2]
REGISTRY = "examples.metric_aggregator.service:registry"
START_TIMEOUT = 30.0
"""Seconds in which a server must say that it listens."""
STOP_TIMEOUT = 20.0
"""Seconds that a server may take to drain; then it gets SIGKILL."""


class Server:
    """One server process."""

    def __init__(self, name: str, process: Process, address: str, log: Path) -> None:
        self.name = name
        self.address = address
        """``host:port`` where the server listens, as it printed it."""
        self._log = log
        self._process = process

    @classmethod
    async def start(cls, name: str, storage: str, directory: Path) -> Self:
        """Start a server process, and wait until it is ready.

        :raises RuntimeError: the process ended or was not ready in time; the text holds its log.
        """
        log = directory / f"{name}.log"
        command = (
            sys.executable,
            "-m",
            "rio",
            "run",
            REGISTRY,
            "--storage",
            storage,
            "--cluster",
            "local",
        )
        with log.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *command, cwd=ROOT, stdin=DEVNULL, stdout=PIPE, stderr=errors
            )
        assert process.stdout is not None
        line = b""
        with suppress(TimeoutError):
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT)
        listening = re.match(r"listening on (\S+)", line.decode())
        if listening is None:
            await _end(process)
            raise RuntimeError(f"{name} did not start:\n{log.read_text()}")
        return cls(name, process, listening[1], log)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.returncode is None

    def log_tail(self) -> str:
        """Return the name of the server and the end of its log."""
        return f"{self.name}:\n{self._log.read_text()[-1000:]}"

    async def kill(self) -> None:
        """End the process with SIGKILL: like in a power cut, it cannot tell anybody."""
        self._process.kill()
        await self._process.wait()

    async def stop(self) -> None:
        """End the process with SIGTERM, so that it drains; after the timeout with SIGKILL."""
        if self.alive:
            self._process.terminate()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT)
        await _end(self._process)


async def _end(process: Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.kill()
    await process.wait()
