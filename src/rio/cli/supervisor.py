"""Several server processes under one parent, which starts a crashed process again."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

from rio._core.clock import now
from rio.cli.options import NEVER, Arguments
from rio.cli.server_process import EVICTED, PARENT
from rio.identity import Address

logger = logging.getLogger("rio.cli")

FIRST_DELAY = 0.5
"""Seconds before a crashed server starts again; doubled with each crash in a row."""
LONGEST_DELAY = 15.0
"""Seconds before a crashed server starts again, at most."""
STEADY = 30.0
"""Seconds after which a crash is not in a row with the crash before."""


def command_lines(arguments: Arguments) -> list[list[str]]:
    """The command line of each server process."""
    return [_command_line(arguments, number) for number in range(arguments.workers)]


def _command_line(arguments: Arguments, number: int) -> list[str]:
    options = {
        "--workers": "1",
        "--storage": arguments.storage,
        **{f"--{name}": url for name, url in arguments.roles().items()},
        "--address": _shift_port(arguments.address, number),
        "--advertise": arguments.advertise and _shift_port(arguments.advertise, number),
        "--http": arguments.http and _shift_port(arguments.http, number),
        "--cluster": arguments.cluster,
        "--version": arguments.version,
        "--idle-after": NEVER if arguments.idle_after is None else f"{arguments.idle_after:g}",
        "--max-objects": arguments.max_objects and str(arguments.max_objects),
        "--max-memory": arguments.max_memory and str(arguments.max_memory),
        "--log-level": arguments.log_level,
    }
    given = [word for name, value in options.items() if value is not None for word in (name, value)]
    given += [word for label in arguments.label.items() for word in ("--label", "=".join(label))]
    return [sys.executable, "-m", "rio", "run", arguments.registry, *given]


def _shift_port(address: str, number: int) -> str:
    host, port = Address.parse(address)
    return str(Address(host, port + number if port else 0))


class Supervisor:
    """Keeps a process for each command line alive, until the process ends on its own or a signal
    asks for the end.
    """

    def __init__(self, command_lines: Sequence[Sequence[str]], environ: Mapping[str, str]) -> None:
        self._command_lines = command_lines
        self._environ = {**environ, PARENT: str(os.getpid())}
        self._children: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        """Return when all processes have ended: 0, or the first exit code that is not 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._forward, number)
        codes = await asyncio.gather(
            *(self._keep(number, line) for number, line in enumerate(self._command_lines, 1))
        )
        return next((code for code in codes if code), 0)

    def _forward(self, number: signal.Signals) -> None:
        self._signal = number
        self._stopping.set()
        for child in self._children.values():
            _send_signal(child, number)

    async def _keep(self, number: int, command_line: Sequence[str]) -> int:
        """Run one server, and start it again whenever it crashes. Returns its last exit code."""
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = now()
            code = await self._run_once(number, command_line)
            if self._stopping.is_set() or not _is_crash(code):
                return self._report_end(number, code)
            delay = FIRST_DELAY if now() - began > STEADY else delay
            logger.warning(
                "server %d %s; it starts again in %g seconds", number, _describe_end(code), delay
            )
            await self._pause(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        return 0

    async def _run_once(self, number: int, command_line: Sequence[str]) -> int:
        # The child has a session of its own, so that Ctrl-C reaches it once, through this process,
        # and not twice.
        child = await asyncio.create_subprocess_exec(
            *command_line, env=self._environ, start_new_session=True
        )
        self._children[number] = child
        if self._stopping.is_set():
            _send_signal(child, self._signal)
        try:
            return await child.wait()
        finally:
            del self._children[number]

    def _report_end(self, number: int, code: int) -> int:
        """The exit code of a server that is not started again.

        A server that was stopped before it could handle signals has ended well.
        """
        if self._stopping.is_set() and code == -self._signal:
            return 0
        if code:
            logger.error("server %d %s", number, _describe_end(code))
        return code if code > 0 else 128 - code if code else 0

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _is_crash(code: int) -> bool:
    return code == EVICTED or code < 0


def _describe_end(code: int) -> str:
    if code == EVICTED:
        return "was declared dead by the cluster"
    return (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    )


def _send_signal(child: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)
