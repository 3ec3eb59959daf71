"""The callers who wait for the statements of one table in PostgreSQL."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from operator import methodcaller
from typing import Any

import msgspec

from rio import background
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


class Round(msgspec.Struct, eq=False):
    """Rows that are under way together, a statement for each kind."""

    groups: list[Group]
    task: asyncio.Task[None] | None = None
    """What serves them; ``None`` in its first step."""


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
        self._rounds: set[Round] = set()
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
                await asyncio.wait([round.task for round in self._rounds if round.task is not None])
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
            round = Round(groups)
            self._rounds.add(round)
            round.task = background.start_now(self._serve(round), "PostgresLane", loop=self._loop)
        if self._waiting and not self._busy.issuperset(self._waiting):
            self._plan_round()

    def _give_up(self, error: Exception) -> None:
        """Answer all who wait after an error that nobody expected. The next caller begins anew."""
        logger.error("PostgreSQL: serving failed", exc_info=error)
        left, self._waiting = self._waiting, {}
        for line in left.values():
            for waiting in line:
                waiting.fail(StorageUnavailable(f"PostgreSQL: {error!r}, nothing was done"))

    async def _serve(self, round: Round) -> None:
        try:
            if len(round.groups) == 1:
                await self._send(round.groups[0])
            else:
                await asyncio.gather(*map(self._send, round.groups))
        except BaseException as error:
            self._leave_unknown(round, error)
            if not isinstance(error, Exception):
                raise
        finally:
            self._end_round(round)

    def _leave_unknown(self, round: Round, error: BaseException) -> None:
        """Answer the callers whom a round leaves without an answer."""
        if isinstance(error, asyncio.CancelledError):
            why = "was cancelled"
        else:
            why = f"failed ({error!r})"
            logger.error("PostgreSQL: serving failed", exc_info=error)
        unknown = StorageUnavailable(
            f"PostgreSQL: the task that waited for its answer {why}; it is not known what was done"
        )
        for group in round.groups:
            for waiting in group.values():
                waiting.fail(unknown)

    def _end_round(self, round: Round) -> None:
        """Go on before those run who were just answered: what they submit may go at once."""
        self._rounds.remove(round)
        self._busy.difference_update(*round.groups)
        if self._waiting:
            if self._start is not None:
                self._start.cancel()
            self._plan_round()

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

    def _ask(
        self, statement: ArrayStatement, sql: str, parameters: Sequence[Any]
    ) -> Coroutine[Any, Any, list[Any]]:
        fetch = methodcaller("fetch_in_time", sql, *parameters)
        return self._pool.run(fetch, repeatable=statement.repeatable)
