"""The callers who wait for the statements of one table in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any

import msgspec

from rio.errors import StorageUnavailable
from rio.logs import Logger
from rio.storage._connector import LINE_TIMEOUT
from rio.storage._sql import Row
from rio.storage.postgres._errors import concerns_one_row
from rio.storage.postgres._pool import PostgresPool
from rio.storage.postgres._statements import ArrayStatement

logger = Logger("rio.storage")

MAX_BATCH = 256
"""Rows of one statement."""
SLOW_ROUND = 0.05
"""Seconds after which the next round does not wait for the one before."""
MAX_BATCH_BYTES = 1 << 22
"""Bytes of the states of one statement, if it is for more than one row."""


class WaitingRow(msgspec.Struct, eq=False):
    """One row for a statement, and the future of the caller who waits for its outcome."""

    statement: ArrayStatement
    parameters: tuple[Any, ...]
    future: asyncio.Future[list[Row]]
    since: float
    """When it was submitted, by the clock of the event loop."""

    def fail(self, error: Exception) -> None:
        if not self.future.done():  # it is if the caller was cancelled meanwhile
            self.future.set_exception(error)


Key = tuple[Any, ...]
Group = dict[Key, WaitingRow]
"""Rows of one statement, by their keys."""


class PostgresLane:
    """Serves the statements of one table in rounds. A round has the first row in line for each key
    that no other round has, and one statement for each kind.

    So rows of one key are done in the order in which they were submitted. While a round is under
    way, rows gather for the next one, which begins when it ends. One that takes ``SLOW_ROUND``
    waits for the network, and the next need not wait with it.

    A caller only waits for a future, and cancelling it disturbs nobody.
    """

    def __init__(self, pool: PostgresPool) -> None:
        self._pool = pool
        self._most_rounds = max(1, pool.size // 2)
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[Key, deque[WaitingRow]] = {}
        self._rounds: dict[asyncio.Task[Any], list[Group]] = {}
        """What is under way."""
        self._busy: set[Key] = set()
        """The keys of the rows that are under way."""
        self._started_at = 0.0
        """When the newest round was started."""
        self._start: asyncio.Handle | None = None
        """What will start the next round."""
        self.rows = 0
        """Rows that went to the server."""
        self.statements = 0
        """The statements in which they went."""

    def submit(
        self, statement: ArrayStatement, parameters: tuple[Any, ...]
    ) -> asyncio.Future[list[Row]]:
        """What the statement returns for one row."""
        future: asyncio.Future[list[Row]] = asyncio.Future(loop=self._loop)
        waiting = WaitingRow(statement, parameters, future, self._loop.time())
        self._waiting.setdefault(parameters[statement.key], deque()).append(waiting)
        if self._start is None:
            self._plan_round()
        return future

    async def wait_until_idle(self) -> None:
        """Return when no row waits."""
        while self._rounds or self._start is not None:
            if self._rounds:
                await asyncio.wait(self._rounds)
            await asyncio.sleep(0)  # what ended has planned the next round, which begins now

    def _plan_round(self) -> None:
        """Have a round started: one turn of the loop later, so that other callers can join it, or
        once the newest one is slow. If there are as many as may be, the first that ends plans it.
        """
        if not self._rounds:
            self._start = self._loop.call_soon(self._start_round)
        elif len(self._rounds) < self._most_rounds:
            self._start = self._loop.call_at(self._started_at + SLOW_ROUND, self._start_round)

    def _start_round(self) -> None:
        self._start = None
        try:
            groups = self._take()
        except Exception as error:
            self._give_up(error)
            return
        if groups:
            self._started_at = self._loop.time()
            self._busy.update(*groups)
            task = self._loop.create_task(self._serve(groups))
            self._rounds[task] = groups
            task.add_done_callback(self._end_round)
        if self._waiting and not self._busy.issuperset(self._waiting):
            self._plan_round()

    def _give_up(self, error: Exception) -> None:
        """Answer all who wait after an error that nobody expected. The next caller begins anew."""
        logger.error("PostgreSQL: serving failed", exc_info=error)
        left, self._waiting = self._waiting, {}
        for line in left.values():
            for waiting in line:
                waiting.fail(StorageUnavailable(f"PostgreSQL: {error!r}, nothing was done"))

    def _end_round(self, task: asyncio.Task[None]) -> None:
        """Answer the callers whom a round has left without an answer, and go on. This is a
        callback, because a task that is cancelled before its first step runs none of its code.
        """
        groups = self._rounds.pop(task)
        self._busy.difference_update(*groups)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.error("PostgreSQL: serving failed", exc_info=error)
        unknown = StorageUnavailable(
            "PostgreSQL: the task that waited for its answer was cancelled, or failed"
            f" ({error!r}); it is not known what was done"
        )
        for group in groups:
            for waiting in group.values():
                waiting.fail(unknown)
        if self._waiting:
            if self._start is not None:
                self._start.cancel()
            self._plan_round()

    async def _serve(self, groups: list[Group]) -> None:
        if len(groups) == 1:
            await self._send(groups[0])
        else:
            await asyncio.gather(*map(self._send, groups))

    def _take(self) -> list[Group]:
        """The next round, up to the limits."""
        groups: dict[ArrayStatement, Group] = {}
        oldest = self._loop.time() - LINE_TIMEOUT
        rows = size = 0
        for key in [key for key in self._waiting if key not in self._busy]:
            waiting = self._pop(key)
            if waiting.since < oldest:
                waiting.fail(
                    StorageUnavailable(
                        "PostgreSQL was too slow with earlier statements:"
                        " it was not asked, nothing was done"
                    )
                )
            elif not waiting.future.done():
                groups.setdefault(waiting.statement, {})[key] = waiting
                rows += 1
                for value in waiting.parameters:
                    if type(value) is bytes:
                        size += len(value)
                if rows == MAX_BATCH or size > MAX_BATCH_BYTES:
                    break
        return list(groups.values())

    def _pop(self, key: Key) -> WaitingRow:
        line = self._waiting[key]
        first = line.popleft()
        if not line:
            del self._waiting[key]
        return first

    async def _send(self, group: Group) -> None:
        """Give each caller the outcome of its row, whatever that is."""
        try:
            found = await self._fetch(group)
        except Exception as error:
            if len(group) > 1 and concerns_one_row(error):
                # Nothing was done. Which row is to blame shows when each is alone.
                for key, waiting in group.items():
                    await self._send({key: waiting})
            else:
                for waiting in group.values():
                    waiting.fail(error)
        else:
            for key, waiting in group.items():
                if not waiting.future.done():
                    waiting.future.set_result(found.get(key, []))

    async def _fetch(self, group: Group) -> dict[Key, list[Row]]:
        """The rows that the server returns, by their keys."""
        self.rows += len(group)
        self.statements += 1
        if len(group) == 1:
            [(key, waiting)] = group.items()
            rows = await self._ask(waiting.statement, waiting.statement.one, waiting.parameters)
            return {key: [tuple(row) for row in rows]}
        # In this order, two statements never wait for each other's locks in a circle.
        ordered = [group[key] for key in sorted(group)]
        statement = ordered[0].statement
        columns = [*zip(*(waiting.parameters for waiting in ordered), strict=True)]
        rows = await self._ask(statement, statement.many, columns)
        width = statement.key.stop - statement.key.start
        found: dict[Key, list[Row]] = {}
        for row in map(tuple, rows):
            found.setdefault(row[:width], []).append(row[width:])
        return found

    async def _ask(
        self, statement: ArrayStatement, sql: str, parameters: Sequence[Any]
    ) -> list[Any]:
        def fetch(connection: Any) -> Awaitable[list[Any]]:
            return connection.fetch_in_time(sql, *parameters)  # type: ignore[no-any-return]  # untyped

        return await self._pool.run(fetch, repeatable=statement.repeatable)
