"""Hearing of changes of the membership in PostgreSQL."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import asyncpg

from rio import background
from rio.errors import RioError
from rio.logs import Logger
from rio.storage._connector import PAUSE
from rio.storage.postgres._dialer import PostgresDialer
from rio.storage.postgres._schema import CHANNEL

logger = Logger("rio.storage")


class ChangeListener:
    """Hears of each new version of the membership, on a connection of its own.

    While that connection is lost, waiting ends by its timeout.
    """

    def __init__(self, dialer: PostgresDialer) -> None:
        self._dialer = dialer
        self._newest = 0
        """The newest version that was heard of."""
        self._waiting: set[asyncio.Future[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def wait(self, version: int, timeout: float) -> None:
        """Return when a version above ``version`` was heard of, or after ``timeout`` seconds."""
        loop = asyncio.get_running_loop()
        if self._listening is None or self._listening.done():  # cancelled by somebody else
            self._listening = background.start(self._listen())
        if self._newest > version:
            return
        change = loop.create_future()
        self._waiting.add(change)
        try:
            await asyncio.wait((change,), timeout=timeout)
        finally:
            self._waiting.discard(change)

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))
            self._listening = None
        self._wake()

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (
                RioError,
                OSError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as error:
                logger.debug(
                    "%s: changes of the membership are not heard, servers poll: %r",
                    self._dialer.server,
                    error,
                )
            await asyncio.sleep(random.uniform(0.5, 1.0) * PAUSE)

    async def _listen_once(self) -> None:
        connection = await self._dialer.dial()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            own_schema = await connection.value_in_time("SELECT current_schema()")

            def hear(connection: Any, pid: int, channel: str, payload: str) -> None:
                version, _, schema = payload.partition(" ")
                if schema == own_schema:
                    self._newest = int(version)
                    self._wake()

            await connection.add_listener(CHANNEL, hear)
            self._wake()  # there may have been changes before
            await lost.wait()
        finally:
            connection.terminate()

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)
