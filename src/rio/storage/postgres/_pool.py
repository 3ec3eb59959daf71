"""Connections to PostgreSQL that callers share."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

import asyncpg

from rio import background
from rio.errors import StorageUnavailable
from rio.logs import Logger
from rio.storage._connector import CONNECT_TIMEOUT, WAIT_TIMEOUT, Connector, in_words
from rio.storage.postgres._dialer import LONGEST_COMMAND, PostgresDialer, drop
from rio.storage.postgres._errors import TEMPORARY, explain, leaves_usable, was_not_sent

logger = Logger("rio.storage")

T = TypeVar("T")

GRACE = 1.0
"""Seconds that a connection whose time is up has to say so before it is dropped."""

_LOST = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class PostgresPool:
    """At most ``size`` connections.

    A connection takes several round trips to make, so tasks of the pool make it: whoever finds none
    idle gets the first that is returned or made. They are made when somebody waits, and after
    :meth:`keep_ready` also before.
    """

    def __init__(self, dialer: PostgresDialer, size: int) -> None:
        self._server = dialer.server
        self._connector = Connector(dialer.server, dialer.dial, TEMPORARY, drop)
        self._loop = asyncio.get_running_loop()
        self.size = size
        """Connections at most."""
        self._made = 0
        """How many connections there are, idle or in use."""
        self._idle: list[Any] = []
        self._dialling: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None
        """Why the last attempt to connect failed."""
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._in_advance: Sequence[str] = ()
        self._in_use: dict[Any, float] = {}
        """The connections that callers use, and when the time of each is up."""
        self._watch: asyncio.TimerHandle | None = None
        """What looks at them when the first time is up."""

    @property
    def idle(self) -> int:
        """How many connections are there for the next callers."""
        return len(self._idle)

    def keep_ready(self, statements: Sequence[str]) -> None:
        """Have ``size`` connections before they are needed, that know these statements already: no
        caller should wait for the round trips that this takes.
        """
        if not self._in_advance:
            self._in_advance = statements
            self._dial()

    async def run(
        self,
        action: Callable[[Any], Awaitable[T]],
        *,
        repeatable: bool = False,
        patience: float = LONGEST_COMMAND,
    ) -> T:
        """``await action(connection)``. It must not be cancelled from outside.

        The action is done again if nothing of it was sent, and if it is repeatable and the
        connection was lost: several times, as what ended one may have ended others. ``patience``:
        how long it may take; as long as one statement by default.

        :raises StorageUnavailable: there was no connection, or not in time, or it was lost.
        """
        try:
            for _ in range(
                self.size
            ):  # each may have been terminated while it was idle, or dialled
                connection = await self._take()
                try:
                    return await self._use(connection, action, patience)
                except Exception as error:
                    if not was_not_sent(error):
                        lost = connection.is_closed() and not isinstance(error, TimeoutError)
                        if not (repeatable and lost):
                            raise
                    logger.debug(
                        "%s: a connection was lost (%r), its statement is sent again",
                        self._server,
                        error,
                    )
            return await self._use(await self._take(), action, patience)
        except Exception as error:
            explained = explain(self._server, error)
            if explained is error:
                raise
            raise explained from error

    async def close(self) -> None:
        """Nobody uses a connection, or waits for one."""
        self._in_advance = ()
        dialling = list(self._dialling)
        for task in dialling:
            task.cancel()
        if dialling:
            await asyncio.wait(dialling)
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_close, idle))

    async def _use(
        self, connection: Any, action: Callable[[Any], Awaitable[T]], patience: float
    ) -> T:
        overdue = self._loop.time() + patience + GRACE
        self._in_use[connection] = overdue
        if self._watch is None or self._watch.when() > overdue:
            self._watch_until(overdue)
        try:
            return await action(connection)
        except BaseException as error:
            lost = connection.is_closed() or overdue <= self._loop.time()
            if lost or isinstance(error, TimeoutError):
                self._drop_idle()  # they lead to the same server, and may be lost too
            if lost or not leaves_usable(error) or connection.is_in_transaction():
                connection.terminate()
            raise
        finally:
            del self._in_use[connection]
            self._offer(connection)

    def _watch_until(self, overdue: float) -> None:
        """One timer for all: one for each statement costs more than the rest of the pool."""
        if self._watch is not None:
            self._watch.cancel()
        self._watch = self._loop.call_at(overdue, self._end_overdue)

    def _end_overdue(self) -> None:
        """Drop what waits for its server for too long: the driver may wait for a farewell for
        ever.
        """
        self._watch = None
        now = self._loop.time()
        for connection, overdue in self._in_use.items():
            if overdue <= now:
                connection.terminate()
        if left := [overdue for overdue in self._in_use.values() if overdue > now]:
            self._watch_until(min(left))

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        self._made -= len(idle)
        for connection in idle:
            connection.terminate()

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._made -= 1
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        self._dial()
        try:
            return await self._wait(waiter)
        except BaseException:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
            elif not waiter.cancelled() and waiter.exception() is None:
                self._offer(waiter.result())
            raise

    async def _wait(self, waiter: asyncio.Future[Any]) -> Any:
        """The connection for a caller. While one is dialled, which may take many trips, it waits
        longer than for others to return theirs.
        """
        deadline = self._loop.time() + CONNECT_TIMEOUT
        while not waiter.done():
            await asyncio.wait((waiter,), timeout=WAIT_TIMEOUT)
            is_late = not self._dialling or self._loop.time() >= deadline
            if is_late and not waiter.done():
                raise self._no_connection() from self._failure
        return waiter.result()

    def _no_connection(self) -> StorageUnavailable:
        why = "all connections are busy"
        if self._failure is not None:
            why += f", another one cannot be made ({in_words(self._failure)})"
        elif self._dialling:
            why = "it is too slow to connect"
        return StorageUnavailable(f"{self._server}: {why}, nothing was done")

    def _offer(self, connection: Any) -> None:
        """Give a connection to the caller who has waited longest, or keep it."""
        if connection.is_closed():
            self._made -= 1
            if self._waiting or self._in_advance:
                self._dial()
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # it is if its caller was cancelled
                waiter.set_result(connection)
                return
        self._idle.append(connection)

    def _dial(self) -> None:
        """Have a connection made for each caller who waits, or for later, as far as there is
        room.
        """
        wanted = min(max(1, len(self._waiting)), self.size - self._made)
        for _ in range(wanted - len(self._dialling)):
            task = background.start(self._connect(), loop=self._loop)
            self._dialling.add(task)
            task.add_done_callback(self._end_dialling)

    async def _connect(self) -> Any:
        error: Exception | None = None
        for _ in range(self.size):
            connection = await self._connector.connect()
            try:
                await connection.prepare_in_advance(self._in_advance, lambda: self._waiting)
                return connection
            except _LOST as lost:  # it ended as the others did: nobody has used it
                connection.terminate()
                logger.debug("%s: a new connection was lost: %r", self._server, lost)
                error = lost
            except BaseException:
                connection.terminate()
                raise
        raise StorageUnavailable(
            f"{self._server}: new connections are lost, nothing was done"
        ) from error

    def _end_dialling(self, task: asyncio.Task[Any]) -> None:
        self._dialling.discard(task)
        if task.cancelled():  # by close(), or somebody else
            if self._waiting:
                self._dial()
            return
        self._failure = task.exception()
        if self._failure is not None:
            self._take_note(self._failure)
            return
        self._made += 1
        self._offer(task.result())
        if self._waiting or self._in_advance:
            self._dial()

    def _take_note(self, failure: BaseException) -> None:
        """An attempt to connect has failed. Who can get the connection of another caller, or of
        another attempt, waits on.
        """
        logger.debug("%s: no connection was made: %r", self._server, failure)
        if self._dialling or self._made > len(self._idle):
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_exception(failure)


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=GRACE)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        logger.debug("a connection did not close: %r", error)
        connection.terminate()
