"""Several server processes under one parent, which starts a crashed process again."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from rio._core.clock import now
from rio.cli.cluster_options import given_settings, option_of
from rio.cli.options import NEVER, Arguments
from rio.cli.server_process import EVICTED, PARENT, REMOTE_STOP, STOP_TIMEOUT
from rio.errors import ConfigurationError
from rio.identity import Address
from rio.logs import Logger

logger = Logger("rio.cli")

FIRST_DELAY = 0.5
"""Seconds before a crashed server starts again; doubled with each crash in a row."""
LONGEST_DELAY = 15.0
"""Seconds before a crashed server starts again, at most."""
STEADY = 30.0
"""Seconds after which a crash is not in a row with the crash before."""
LAST_PORT = 65535
WRONG_USAGE = 2
"""The exit code of a command line that cannot be used: another attempt would end alike."""


def command_lines(arguments: Arguments) -> list[list[str]]:
    """The command line of each server process.

    :raises ConfigurationError: there are not enough ports after the given one.
    """
    return [_command_line(arguments, number) for number in range(arguments.workers)]


def environment_of_children(arguments: Arguments) -> dict[str, str]:
    """The URLs of the storages. They may hold passwords, and every user of the machine can read the
    command lines of others.
    """
    roles = arguments.roles().items()
    return {
        "RIO_STORAGE": arguments.storage,
        **{f"RIO_{name.upper()}": url for name, url in roles},
    }


def _command_line(arguments: Arguments, number: int) -> list[str]:
    options: dict[str, Any] = {
        "--workers": "1",
        "--keyring": arguments.keyring,
        "--plain-states": "accept" if arguments.plain_states else None,
        "--security": arguments.security,
        "--address": _shift_port(arguments.address, number),
        "--advertise": arguments.advertise and _shift_port(arguments.advertise, number),
        "--http": arguments.http and _shift_port(arguments.http, number),
        "--cluster": arguments.cluster,
        **{option_of(name): text for name, text in given_settings(arguments).items()},
        "--version": arguments.version,
        "--wait": f"{arguments.wait:g}",
        "--idle-after": NEVER if arguments.idle_after is None else f"{arguments.idle_after:g}",
        "--socket-mode": f"{arguments.socket_mode:o}",
        "--max-objects": arguments.max_objects and str(arguments.max_objects),
        "--max-memory": arguments.max_memory and str(arguments.max_memory),
        "--latency": arguments.latency,
        "--log-level": arguments.log_level,
    }
    given = [word for name, value in options.items() if value is not None for word in (name, value)]
    given += ["--insecure"] if arguments.insecure else []
    given += [word for label in arguments.label.items() for word in ("--label", "=".join(label))]
    return [*_python(), "-m", "rio", "run", arguments.registry, *given]


def _python() -> list[str]:
    """This interpreter, with its flags. With ``-P`` no file of the current directory takes the
    place of a module of the interpreter, or of ``rio`` itself.
    """
    # What multiprocessing gives its children; subprocess.pyi does not list it.
    flags = vars(subprocess)["_args_from_interpreter_flags"]()
    return [sys.executable, *flags, *([] if sys.flags.safe_path else ["-P"])]


def _shift_port(address: str, number: int) -> str:
    host, port = parsed = Address.parse(address)
    if parsed.path:
        return f"{address}.{number}" if number else address
    if port + number > LAST_PORT:
        raise ConfigurationError(
            f"{address} has no {number} ports after it for more workers: {LAST_PORT} is the last"
        )
    return str(Address(host, port + number if port else 0))


class Supervisor:
    """Keeps a process for each command line alive, until the process ends on its own or a signal
    asks for the end. What has not ended ``patience`` seconds after that is killed.
    """

    def __init__(
        self,
        command_lines: Sequence[Sequence[str]],
        environ: Mapping[str, str],
        *,
        patience: float = STOP_TIMEOUT,
    ) -> None:
        self._command_lines = command_lines
        self._environ = {**environ, PARENT: str(os.getpid())}
        self._patience = patience
        self._children: dict[int, Process] = {}
        self._stopping = asyncio.Event()
        self._is_hurried = False

    async def run(self) -> int:
        """Return when all processes have ended: 0, or the first exit code that is not 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        codes = await asyncio.gather(
            *(self._keep(number, line) for number, line in enumerate(self._command_lines, 1))
        )
        return next((code for code in codes if code), 0)

    def _stop(self) -> None:
        """Have the servers drain. If that was done before, end them at once."""
        if self._stopping.is_set():
            self._is_hurried = True
        else:
            self._stopping.set()
            asyncio.get_running_loop().call_later(self._patience, self._kill)
        for child in self._children.values():
            _send_signal(child, signal.SIGTERM)

    def _kill(self) -> None:
        for number, child in self._children.items():
            logger.error("server %d did not end within %g s", number, self._patience)
            _send_signal(child, signal.SIGKILL)

    async def _keep(self, number: int, command_line: Sequence[str]) -> int:
        """Run one server, and start it again whenever it crashes. Returns its last exit code.

        A server that has failed at its very first start is not started again: most likely its
        settings are wrong. Later only wrong usage is final.
        """
        delay = FIRST_DELAY
        final: tuple[int, ...] = (0, 1, WRONG_USAGE, REMOTE_STOP)
        while not self._stopping.is_set():
            began = now()
            try:
                code = await self._run_once(number, command_line)
            except OSError as error:
                end = f"could not be started: {error}"
            else:
                if self._stopping.is_set() or code in final:
                    return self._report_end(number, code)
                end = _describe_end(code)
            final = (0, WRONG_USAGE, REMOTE_STOP)
            delay = FIRST_DELAY if now() - began > STEADY else delay
            logger.warning("server %d %s; it starts again in %g seconds", number, end, delay)
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
            _send_signal(child, signal.SIGTERM)
        try:
            return await child.wait()
        finally:
            del self._children[number]

    def _report_end(self, number: int, code: int) -> int:
        """The exit code of a server that is not started again.

        A server that was stopped before it could handle signals has ended well; one that a second
        signal has cut off has not.
        """
        if self._stopping.is_set() and code == -signal.SIGTERM and not self._is_hurried:
            return 0
        if code:
            logger.error("server %d %s", number, _describe_end(code))
        return code if code > 0 else 128 - code if code else 0

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()


def _describe_end(code: int) -> str:
    if code == REMOTE_STOP:
        return "was stopped by a client"
    if code == EVICTED:
        return "was declared dead by the cluster"
    return (
        f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    )


def _send_signal(child: Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        child.send_signal(number)
