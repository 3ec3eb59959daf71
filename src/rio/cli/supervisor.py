"""Several server processes under one parent, which brings back those that crash."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

from rio._core.clock import now
from rio.cli.arguments import Arguments
from rio.identity import Address

logger = logging.getLogger("rio.cli")

EVICTED = 70
"""Exit code of a server that the cluster has declared dead (``EX_SOFTWARE``)."""
FIRST_DELAY = 0.5
"""Seconds before a crashed server starts again; doubled with each crash in a row."""
LONGEST_DELAY = 15.0
STEADY = 30.0
"""Seconds after which a crash is no longer in a row with the one before."""
PARENT = "RIO_PARENT_PID"
"""Tells a child who its parent is."""
PR_SET_PDEATHSIG = 1


def commands(arguments: Arguments) -> list[list[str]]:
    """The command line of each server."""
    return [_command(arguments, number) for number in range(arguments.workers)]


def _command(arguments: Arguments, number: int) -> list[str]:
    advertise = (
        []
        if arguments.advertise is None
        else ["--advertise", _shifted(arguments.advertise, number)]
    )
    http = [] if arguments.http is None else ["--http", _shifted(arguments.http, number)]
    return [
        *(sys.executable, "-m", "rio", "run", arguments.target, "--workers", "1"),
        *(
            "--storage",
            arguments.storage,
            *_roles(arguments),
            "--address",
            _shifted(arguments.address, number),
            *advertise,
            *http,
        ),
        *("--cluster", arguments.cluster, "--log-level", arguments.log_level),
    ]


def _roles(arguments: Arguments) -> list[str]:
    given = {
        "--membership": arguments.membership,
        "--placement": arguments.placement,
        "--state": arguments.state,
    }
    return [word for name, url in given.items() if url is not None for word in (name, url)]


def _shifted(address: str, number: int) -> str:
    host, port = Address.parse(address)
    return str(Address(host, port + number if port else 0))


class Supervisor:
    """Keeps one process for each command alive until it ends of its own accord or the parent is
    told to stop.
    """

    def __init__(self, commands: Sequence[Sequence[str]], environ: Mapping[str, str]) -> None:
        self._commands = commands
        self._environ = {**environ, PARENT: str(os.getpid())}
        self._children: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._signal = signal.SIGTERM

    async def run(self) -> int:
        """Returns when all have ended: 0, or the first exit code that is not."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._forward, number)
        codes = await asyncio.gather(
            *(self._keep(number, command) for number, command in enumerate(self._commands, 1))
        )
        return next((code for code in codes if code), 0)

    def _forward(self, number: signal.Signals) -> None:
        self._signal = number
        self._stopping.set()
        for child in self._children.values():
            _send_signal(child, number)

    async def _keep(self, number: int, command: Sequence[str]) -> int:
        """Run one server, again and again while it crashes. Returns how it has ended for good."""
        delay = FIRST_DELAY
        while not self._stopping.is_set():
            began = now()
            code = await self._run_once(number, command)
            if self._stopping.is_set() or not _crashed(code):
                return self._told(number, code)
            delay = FIRST_DELAY if now() - began > STEADY else delay
            logger.warning(
                "server %d %s; it starts again in %g seconds", number, _ending(code), delay
            )
            await self._pause(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        return 0

    async def _run_once(self, number: int, command: Sequence[str]) -> int:
        # in a session of its own, so that Ctrl-C reaches it once, through us, and not twice
        child = await asyncio.create_subprocess_exec(
            *command, env=self._environ, start_new_session=True
        )
        self._children[number] = child
        if self._stopping.is_set():
            _send_signal(child, self._signal)
        try:
            return await child.wait()
        finally:
            del self._children[number]

    def _told(self, number: int, code: int) -> int:
        """The exit code of a server that has ended for good; one that we stopped before it could
        handle signals has ended well.
        """
        if self._stopping.is_set() and code == -self._signal:
            return 0
        if code:
            logger.error("server %d %s", number, _ending(code))
        return code if code > 0 else 128 - code if code else 0

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _crashed(code: int) -> bool:
    return code == EVICTED or code < 0


def _ending(code: int) -> str:
    if code == EVICTED:
        return "was declared dead by the cluster"
    return (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    )


def _send_signal(child: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)


def follow_parent(environ: Mapping[str, str]) -> None:
    """In a child: drain and stop when the parent is gone, however it went. Only Linux can tell."""
    parent = environ.get(PARENT)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):
        sys.exit("rio: the parent process has ended")
