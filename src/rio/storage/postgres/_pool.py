"""Connections to PostgreSQL that callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from rio.errors import StorageUnavailable
from rio.logs import Logger
from rio.storage._connector import WAIT_TIMEOUT, Connector
from rio.storage.postgres._dialer import LONGEST_COMMAND, PostgresDialer
from rio.storage.postgres._errors import TEMPORARY, explain, leaves_usable, was_not_sent

logger = Logger("rio.storage")

T = TypeVar("T")

GRACE = 1.0
"""Seconds that a connection whose time is up has to say so before it is dropped."""


class PostgresPool:
    """At most ``size`` connections, made when they are needed.

    A lost connection is replaced when the next one is needed.
    """

    def __init__(self, dialer: PostgresDialer, size: int) -> None:
        self._server = dialer.server
        self._connector = Connector(dialer.server, dialer.dial, TEMPORARY)
        self._idle: list[Any] = []
        self.size = size
        """Connections at most."""
        self._turns = asyncio.Semaphore(size)

    async def run(self, action: Callable[[Any], Awaitable[T]], *, repeatable: bool = False) -> T:
        """``await action(connection)``. It must not be cancelled from outside.

        The action is done again if nothing of it was sent; and once, if it is repeatable and the
        connection was lost.

        :raises StorageUnavailable: there was no connection, or not in time, or it was lost.
        """
        try:
            await self._wait_for_turn()
            try:
                return await self._run(action, repeatable)
            finally:
                self._turns.release()
        except Exception as error:
            explained = explain(self._server, error)
            if explained is error:
                raise
            raise explained from error

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_close, idle))

    async def _wait_for_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(WAIT_TIMEOUT):
                await self._turns.acquire()
        except TimeoutError as error:
            raise StorageUnavailable(
                f"{self._server}: all connections are busy, nothing was done"
            ) from error

    async def _run(self, action: Callable[[Any], Awaitable[T]], repeatable: bool) -> T:
        for _ in range(self.size):  # each may have been terminated while it was idle
            connection = await self._take()
            try:
                return await self._use(connection, action)
            except Exception as error:
                if not was_not_sent(error):
                    lost = connection.is_closed() and not isinstance(error, TimeoutError)
                    if not (repeatable and lost):
                        raise
                    repeatable = False
                logger.debug(
                    "%s: a connection was lost (%r), its statement is sent again",
                    self._server,
                    error,
                )
        return await self._use(await self._take(), action)

    async def _use(self, connection: Any, action: Callable[[Any], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        # The driver may wait for a farewell for ever.
        overdue = loop.call_later(LONGEST_COMMAND + GRACE, connection.terminate)
        try:
            result = await action(connection)
        except BaseException as error:
            if isinstance(error, TimeoutError) or overdue.when() <= loop.time():
                self._drop_idle()  # the server answers nothing: the others would wait in vain too
            if connection.is_closed() or not leaves_usable(error) or connection.is_in_transaction():
                connection.terminate()
            else:
                self._idle.append(connection)
            raise
        finally:
            overdue.cancel()
        self._idle.append(connection)
        return result

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._connector.connect()


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=GRACE)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        logger.debug("a connection did not close: %r", error)
        connection.terminate()
