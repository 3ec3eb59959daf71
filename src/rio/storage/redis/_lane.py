"""One connection to Redis, and the scripts that wait for it."""

from __future__ import annotations

import asyncio
from itertools import groupby
from operator import attrgetter
from typing import Any

import msgspec
from redis import exceptions

from rio import background
from rio.errors import RioError, StorageUnavailable
from rio.logs import Logger
from rio.storage._connector import LINE_TIMEOUT, Connector
from rio.storage.redis._dialer import RedisDialer, drop, exchange
from rio.storage.redis._errors import TEMPORARY, explain
from rio.storage.redis._scripts import Script

COMMAND_TIMEOUT = 2.0
"""Seconds for one write and its answers; then the connection is dropped."""
MAX_BATCH = 512
"""Rows of one write."""
MAX_BATCH_BYTES = 1 << 22
"""Bytes of one write, if it is more than one row."""

logger = Logger("rio.storage")

_script = attrgetter("script")


class WaitingScript(msgspec.Struct, eq=False):
    """A script for one row, and the future of the caller who waits for its answer."""

    script: Script
    keys: tuple[bytes, ...]
    row: tuple[Any, ...]
    """The arguments."""
    future: asyncio.Future[Any]
    since: float
    """When it was submitted, by the clock of the event loop."""

    def settle(self, answer: Any) -> None:
        if self.future.done():  # the caller was cancelled meanwhile
            return
        if isinstance(answer, Exception):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


Command = list[WaitingScript]
"""Rows of one script, which go to the server as one command."""


class RedisLane:
    """Runs scripts on one connection in the order in which they were submitted, and sends all that
    wait in one write.

    A caller only waits for a future, and cancelling it disturbs nobody.
    """

    def __init__(self, dialer: RedisDialer) -> None:
        self._server = dialer.server
        self._connector = Connector(dialer.server, dialer.dial, TEMPORARY, drop)
        self._connection: Any = None
        self._loop = asyncio.get_running_loop()
        self._waiting: list[WaitingScript] = []
        self._serving: asyncio.Task[None] | None = None
        self._readying: asyncio.Task[None] | None = None
        """What connects before anybody waits for it."""
        self.rows = 0
        """Rows that went to the server."""
        self.commands = 0
        """The commands in which they went."""

    def submit(
        self, script: Script, keys: tuple[bytes, ...], row: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        """The answer of a script to one row."""
        future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
        self._waiting.append(WaitingScript(script, keys, row, future, self._loop.time()))
        if self._serving is None:
            self._start_serving()
        return future

    @property
    def is_ready(self) -> bool:
        """Whether the next script need not wait for a connection."""
        return self._connection is not None

    def make_ready(self) -> None:
        """Connect before anybody waits for it."""
        if self._connection is None and self._serving is None and self._readying is None:
            self._readying = background.start(self._connect_in_advance(), loop=self._loop)
            self._readying.add_done_callback(self._end_readying)

    async def ask(self, *words: bytes) -> Any:
        """The answer to a command that is no script. Nobody else may use the lane meanwhile.

        :raises StorageUnavailable: there was no answer, or it was an error.
        """
        try:
            answers = await self._send([words])
        except TEMPORARY as error:
            raise explain(self._server, error) from error
        if isinstance(answers[0], Exception):
            raise explain(self._server, answers[0]) from answers[0]
        return answers[0]

    async def close(self) -> None:
        """Run all scripts that wait, then disconnect."""
        if self._readying is not None:
            self._readying.cancel()
            await asyncio.wait((self._readying,))
        while self._serving is not None:
            await asyncio.wait((self._serving,))
        await self._disconnect()

    def _start_serving(self) -> None:
        self._serving = background.start(self._serve(), loop=self._loop)
        self._serving.add_done_callback(self._go_on)

    def _go_on(self, task: asyncio.Task[None]) -> None:
        """Serve on if somebody else cancelled the task: callers wait. This is a callback, because a
        task that is cancelled before its first step runs none of its code.
        """
        if self._serving is not task:
            return  # it ended because nobody waited
        self._serving = None
        if not task.cancelled():
            self._give_up(task.exception())
        if self._waiting:
            self._start_serving()

    def _give_up(self, error: BaseException | None) -> None:
        """Answer all who wait after an error that nobody expected. The next caller begins anew."""
        logger.error("%s: serving failed", self._server, exc_info=error)
        left, self._waiting = self._waiting, []
        for waiting in left:
            waiting.settle(StorageUnavailable(f"{self._server}: {error!r}, nothing was done"))

    async def _serve(self) -> None:
        """A task begins one turn of the loop after it is made, so other callers can join the first
        write.
        """
        while self._waiting:
            commands = self._take()
            if commands:
                await self._run(commands)
                await asyncio.sleep(0)  # the callers that were just answered may submit more
        self._serving = None

    async def _connect_in_advance(self) -> None:
        try:
            self._connection = await self._connector.connect()
        except (RioError, *TEMPORARY, exceptions.RedisError) as error:
            logger.debug("%s: it was not reached in advance: %r", self._server, error)

    def _end_readying(self, _: asyncio.Task[None]) -> None:
        self._readying = None

    def _take(self) -> list[Command]:
        """The commands of the next write, up to the limits."""
        oldest = self._loop.time() - LINE_TIMEOUT
        taken: list[WaitingScript] = []
        size = count = 0
        for waiting in self._waiting:
            if len(taken) == MAX_BATCH or size > MAX_BATCH_BYTES:
                break
            count += 1
            if waiting.since < oldest:
                waiting.settle(
                    StorageUnavailable(
                        f"{self._server}: it was too slow with earlier commands, nothing was done"
                    )
                )
            elif not waiting.future.done():
                taken.append(waiting)
                for value in waiting.row:
                    if type(value) is bytes:
                        size += len(value)
        del self._waiting[:count]
        commands: list[Command] = []
        for script, group in groupby(taken, _script):
            rows = list(group)
            commands += [rows] if script.many else [[row] for row in rows]
        return commands

    async def _run(self, commands: list[Command]) -> None:
        """Give each caller the answer to its row, or the error."""
        try:
            answers = await self._send(
                [_pack(b"EVALSHA", command[0].script.digest, command) for command in commands]
            )
            await self._run_again(commands, answers)
        except asyncio.CancelledError:
            unknown = StorageUnavailable(
                f"{self._server}: the task that waited for its answer was cancelled,"
                " it is not known what was done"
            )
            for command in commands:
                self._settle(command, unknown)
            raise
        except Exception as error:
            answers = [error] * len(commands)
        for command, answer in zip(commands, answers, strict=True):
            self.rows += len(command)
            self.commands += 1
            self._settle(command, answer)

    async def _run_again(self, commands: list[Command], answers: list[Any]) -> None:
        """Send the text of scripts that the server has forgotten: it was restarted behind a proxy,
        or told SCRIPT FLUSH. Their answers replace the errors in ``answers``.
        """
        forgotten = [
            index
            for index, answer in enumerate(answers)
            if isinstance(answer, exceptions.NoScriptError)
        ]
        if not forgotten:
            return
        again = [commands[index] for index in forgotten]
        new = await self._send(
            [_pack(b"EVAL", command[0].script.text, command) for command in again]
        )
        for index, answer in zip(forgotten, new, strict=True):
            answers[index] = answer

    def _settle(self, command: Command, answer: Any) -> None:
        if isinstance(answer, Exception):
            answer = self._explain(answer)
        elif command[0].script.many and not (type(answer) is list and len(answer) == len(command)):
            answer = StorageUnavailable(
                f"{self._server}: it answered {answer!r} to {len(command)} rows,"
                " it is not known what was done"
            )
        if isinstance(answer, Exception) or not command[0].script.many:
            answer = [answer] * len(command)
        for waiting, own in zip(command, answer, strict=True):
            if isinstance(own, Exception):
                waiting.settle(self._explain(own))
            elif not waiting.future.done():
                waiting.future.set_result(own)

    def _explain(self, error: Exception) -> Exception:
        explained = explain(self._server, error)
        if explained is not error:
            explained.__cause__ = error
        return explained

    async def _send(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """The answers to commands.

        :raises StorageUnavailable: there was no connection, so nothing was done.
        :raises Exception: of the driver. It is not known what was done, and the connection is gone.
        """
        if self._readying is not None:
            await asyncio.wait((self._readying,))
        if self._connection is not None and await self._is_stale():
            await self._disconnect()
        if self._connection is None:
            self._connection = await self._connector.connect()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                answers = await exchange(self._connection, commands)
        except BaseException:
            await self._disconnect()
            raise
        if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
            # At the next attempt the name in the URL may stand for the new primary.
            await self._disconnect()
        return answers

    async def _is_stale(self) -> bool:
        """Whether the server closed the connection, or sent something that nobody asked for."""
        try:
            return not self._connection.is_connected or bool(await self._connection.can_read())
        except TEMPORARY:
            return True

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await drop(connection)


def _pack(verb: bytes, script: bytes, command: Command) -> tuple[Any, ...]:
    """The words of a command that runs a script."""
    shared = len(command[0].keys) - command[0].script.own_keys
    own = (key for each in command for key in each.keys[shared:])
    keys = (*command[0].keys[:shared], *own)
    return (verb, script, len(keys), *keys, *(value for each in command for value in each.row))
