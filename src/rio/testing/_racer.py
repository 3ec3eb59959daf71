"""Processes that race for one storage, as their parent sees them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from asyncio.subprocess import PIPE
from contextlib import AsyncExitStack
from typing import Any, Self

from rio.testing._shared_storage import SharedStorage

LINE_LIMIT = 1 << 26
"""Bytes of one answer, at most."""


class Racer:
    """One process that is ready to begin: ``async with Racer(shared, "claim_all", 1, 3000) as
    racer``. It is killed in the end.

    ``race``: what the process does, a name of :data:`rio.testing._races.RACES`. ``number``: tells
    the processes of a race apart. ``size``: how much there is to do.
    """

    def __init__(self, shared: SharedStorage, race: str, number: int, size: int) -> None:
        self._arguments = [race, str(number), str(size), shared.function, *shared.arguments]
        self._process: asyncio.subprocess.Process

    async def __aenter__(self) -> Self:
        command = [sys.executable, "-W", "error", "-m", "rio.testing._races", *self._arguments]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        environ = {**os.environ, "PYTHONPATH": path}
        self._process = await asyncio.create_subprocess_exec(
            *command, stdin=PIPE, stdout=PIPE, env=environ, limit=LINE_LIMIT
        )
        if await self._read_line() != "ready":
            raise RuntimeError(f"{self._arguments} did not start")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()

    def send_line(self, start: float = 0.0) -> None:
        """Let the process begin at ``start``, a time of the clock that all processes share. The
        second line ends a process that goes on until it is told to stop.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(f"{start}\n".encode())

    async def answer(self) -> Any:
        """Return what the process answers next.

        :raises RuntimeError: it ended without an answer.
        """
        line = await self._read_line()
        if not line:
            code = await self._process.wait()
            raise RuntimeError(f"{self._arguments} ended with {code} and without an answer")
        return json.loads(line)

    async def kill(self) -> list[str]:
        """End the process as by SIGKILL, and return the lines that it had printed before."""
        if self._process.returncode is None:
            self._process.kill()
        rest, _ = await self._process.communicate()
        return [line for line in rest.decode().splitlines(keepends=True) if line.endswith("\n")]

    async def _read_line(self) -> str:
        """The next line of the process' output, or nothing once it has ended."""
        assert self._process.stdout is not None
        return (await self._process.stdout.readline()).decode().strip()


async def run_race(shared: SharedStorage, race: str, size: int, *, processes: int = 4) -> list[Any]:
    """Start processes with the numbers 1, 2 and so on, let them begin at the same moment, and
    return what each of them answers.

    :raises RuntimeError: a process ended without an answer.
    """
    async with AsyncExitStack() as stack:
        starting = [
            stack.enter_async_context(Racer(shared, race, number, size))
            for number in range(1, processes + 1)
        ]
        racers = [await racer for racer in starting]
        start = time.monotonic() + 0.1
        for racer in racers:
            racer.send_line(start)
        return [await racer.answer() for racer in racers]
