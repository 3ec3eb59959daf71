"""One connection to a SQLite file, and the operations that wait for it."""

from __future__ import annotations

import asyncio
import math
import os
import random
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import aiosqlite
import msgspec

from rio.errors import RioError, StorageUnavailable
from rio.logs import Logger
from rio.storage._sql import Operation, Row
from rio.storage.sqlite._connection import OpenFile, is_busy
from rio.storage.sqlite._errors import explain
from rio.storage.sqlite._lock import describe_writer
from rio.storage.sqlite._statements import MAX_ROWS, MULTI_ROW_STATEMENTS, MultiRowStatement

logger = Logger("rio.storage")

LONG_LOG = 64 << 20
"""Bytes of the write-ahead log at which a reader must be standing in the way of emptying it."""
LOOK_INTERVAL = 10.0
"""Seconds between two looks at the size of the log."""
LONG_WAIT = 1.0
"""Seconds after which the log tells for whom an operation waits."""
MAX_BATCH = 1024
"""Operations of one transaction at most, so that other processes get their turn."""

_kind = attrgetter("kind")
_statement = attrgetter("statement")


class StartedOperation(msgspec.Struct, eq=False):
    """An operation whose first statement is to be executed."""

    steps: Operation[Any]
    statement: str
    parameters: tuple[Any, ...]

    def finish(self, fetch: Callable[[str, Sequence[Any]], list[Row]], rows: list[Row]) -> Any:
        """The result of the operation. ``rows``: what its first statement returned. ``fetch``
        executes the other statements.
        """
        try:
            while True:
                rows = fetch(*self.steps.send(rows))
        except StopIteration as end:
            return end.value


class WaitingOperation(msgspec.Struct, eq=False):
    """An operation, and the future of the caller who waits for its result."""

    operation: Callable[..., Operation[Any]]
    args: tuple[Any, ...]
    kind: str
    """Operations of one kind may share statements. The kinds follow one another by their names."""
    future: asyncio.Future[Any]

    def start(self) -> StartedOperation:
        steps = self.operation(*self.args)
        return StartedOperation(steps, *next(steps))


PreparedChunk = tuple[MultiRowStatement | None, Sequence[StartedOperation]]
"""Operations that one statement can execute together, and that statement."""


class SqliteLane:
    """One connection on its own thread. It serves the operations that wait, a batch at a time.

    ``begin``: the statement that begins a transaction. ``patience``: seconds to wait for the
    transaction of another process. ``connect`` is called on the thread; its argument says whether
    it may create the file.

    A file that is deleted or replaced goes on taking commits that nobody will read. So the lane
    looks after each transaction whether the path still names its file; if not, nothing was done,
    and the next batch opens what is there then.

    The thread takes all that wait when it begins a batch: what was submitted in one turn of the
    loop, and while the thread woke up.

    A caller only waits for a future. Cancelling it drops its operation if that has not begun, and
    cannot disturb a batch that has. A lane must not refer to its database, or a database that was
    forgotten would never be collected.
    """

    def __init__(
        self,
        path: str,
        begin: str,
        patience: float,
        connect: Callable[[bool], OpenFile],
    ) -> None:
        self._path = path
        self._begin = begin
        self._patience = patience
        self._connect = connect
        self._opened: OpenFile | None = None
        """``None`` while the path does not name the file any more."""
        self._connection: sqlite3.Connection
        self.history = ""
        """The file that is open, for those who compare it."""
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[WaitingOperation] = deque()
        self._is_serving = False
        """Whether the thread has been woken, and has not ended what waited."""
        self._idle: asyncio.Future[None] | None = None
        """Done once no operation waits, if anybody needs to know."""
        self._owner = aiosqlite.Connection(self._connect_and_keep, iter_chunk_size=64)
        # This attribute is private, but a thread that is not a daemon would keep a program that
        # forgets close() from ending.
        self._owner._thread.daemon = True
        self._looked_at = 0.0
        self.operations = 0
        """Operations that were committed."""
        self.transactions = 0
        """The transactions in which they were committed."""

    async def open(self) -> None:
        """:raises StorageError: the file cannot be opened, or its tables cannot be used."""
        try:
            await self._owner
        except Exception:
            self._owner._thread.join()  # it is ending, and must not do so after the loop
            raise

    async def close(self) -> None:
        """Serve all operations that wait, then disconnect."""
        while self._is_serving:
            self._idle = self._idle or self._loop.create_future()
            await asyncio.wait((self._idle,))
        self._call(self._disconnect)
        await self._owner.close()

    def abandon(self) -> None:
        """Disconnect and end the thread, without a loop and without waiting."""
        self._call(self._disconnect)
        self._call(self._owner.stop)

    def submit(
        self,
        operation: Callable[..., Operation[Any]],
        args: tuple[Any, ...],
        kind: str | None = None,
    ) -> asyncio.Future[Any]:
        """The result of ``operation(*args)``, or its error. ``kind``: by default its name."""
        future: asyncio.Future[Any] = asyncio.Future(loop=self._loop)
        self._waiting.append(WaitingOperation(operation, args, kind or operation.__name__, future))
        if not self._is_serving:
            self._is_serving = True
            self._loop.call_soon(self._call, self._serve)  # others may join until then
        return future

    def _settle(self, batch: list[WaitingOperation], outcomes: list[Any]) -> None:
        for waiting, outcome in zip(batch, outcomes, strict=True):
            future = waiting.future
            if future.done():  # the caller was cancelled meanwhile
                continue
            if isinstance(outcome, BaseException):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        if self._waiting:
            # The callers that were just answered run first: they may submit more.
            self._loop.call_soon(self._call, self._serve)
            return
        self._is_serving = False
        if self._idle is not None:
            self._idle.set_result(None)
            self._idle = None

    def _call(self, function: Callable[[], object]) -> None:
        # The queue of the connection's thread is private, but aiosqlite has no public way to run
        # one function there, a trip for each statement costs ten times the statement, and its own
        # _execute() breaks the thread when the loop is closed before the answer.
        self._owner._tx.put_nowait((None, function))

    # --- on the connection's thread ---------------------------------------------------------------

    def _connect_and_keep(self, create: bool = True) -> sqlite3.Connection:
        try:
            self._opened = self._connect(create)
        except sqlite3.Error as error:
            raise explain(self._path, error) from error
        self._connection, file = self._opened
        self.history = "" if file is None else f"{file.device}/{file.inode}"
        return self._connection

    def _disconnect(self) -> None:
        opened, self._opened, self.history = self._opened, None, ""
        if opened is not None:
            opened.close()

    def _look_at_log(self) -> None:
        now = time.monotonic()
        if now - self._looked_at < LOOK_INTERVAL:
            return
        self._looked_at = now
        log = f"{self._path}-wal"
        try:
            size = os.stat(log).st_size
        except OSError:  # its database is gone
            return
        if size > LONG_LOG and self._begin != "BEGIN":  # the connection that writes says it
            logger.warning(
                "%s has grown to %d MiB: a process reads the database for long, so what is written"
                " cannot leave the log. Look for an open transaction, a backup for instance",
                log,
                size >> 20,
            )

    def _leave_lost_file(self) -> StorageUnavailable | None:
        """Disconnect if the path does not name the file any more, and say so."""
        opened = self._opened
        if opened is None or (opened.file is not None and opened.file.is_at(self._path)):
            return None
        self._disconnect()
        lost = StorageUnavailable(
            f"{self._path}: it was deleted or replaced while it was open, so nothing that is"
            " written there would be found again: nothing was done"
        )
        logger.error("%s", lost)
        return lost

    def _take(self) -> list[WaitingOperation]:
        """The next batch. Operations of one kind stand one after the other."""
        taken: list[WaitingOperation] = []
        while self._waiting and len(taken) < MAX_BATCH:
            taken.append(self._waiting.popleft())
        taken.sort(key=_kind)
        return [waiting for waiting in taken if not waiting.future.done()]

    def _serve(self) -> None:
        batch = self._take()
        try:
            if self._opened is None:
                self._connect_and_keep(create=False)
            outcomes = self._transact(batch)
            self._look_at_log()
            lost = self._leave_lost_file()
            if lost is not None:
                outcomes = [lost for _ in batch]
        except RioError as error:
            outcomes = [error for _ in batch]
        except BaseException as error:  # whatever it is, no caller may be left waiting
            outcomes = [
                StorageUnavailable(f"{self._path}: {error!r}; it may have been done or not")
                for _ in batch
            ]
        try:
            self._loop.call_soon_threadsafe(self._settle, batch, outcomes)
        except RuntimeError:
            assert self._loop.is_closed()  # and all callers are gone with it

    def _transact(self, batch: list[WaitingOperation]) -> list[Any]:
        """The outcome of each operation: its result, or its own error.

        After one that failed, few are tried at once: if many fail, each attempt is for nothing.
        """
        outcomes: list[Any] = []
        size = len(batch)
        while len(outcomes) < len(batch):
            left = batch[len(outcomes) : len(outcomes) + size]
            outcomes += self._run_alone(*left) if len(left) == 1 else self._commit(left)
            size = 1 if isinstance(outcomes[-1], Exception) else 2 * size
        return outcomes

    def _run_alone(self, waiting: WaitingOperation) -> list[Any]:
        """The outcome of one operation.

        Where SQLite makes a transaction of its first statement by itself, the statements around it
        are left out.
        """
        try:
            started = waiting.start()
            for_many = MULTI_ROW_STATEMENTS.get(started.statement)
            if for_many is None:
                return self._commit([waiting])
            statement = for_many.alone or started.statement
            rows = self._fetch_patiently(statement, started.parameters)
            result = started.finish(self._fetch_patiently, rows)
        except Exception as error:
            return [explain(self._path, error)]
        self.transactions += 1
        self.operations += 1
        return [result]

    def _commit(self, batch: list[WaitingOperation]) -> list[Any]:
        """Commit all operations in one transaction, or, if one fails, those before it. Returns the
        outcomes up to the one that failed.

        What can be done without the lock is done before: while it is held, all other processes
        wait, also if this one is stopped.
        """
        prepared, failure = _start(batch)
        try:
            self._fetch_patiently(self._begin)
            results, failure = self._run(prepared, failure)
            if failure is None:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return [explain(self._path, error) for _ in batch]
        if failure is not None:
            self._roll_back()
            return [*self._transact(batch[: len(results)]), failure]
        self.transactions += 1
        self.operations += len(batch)
        return results

    def _fetch_patiently(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Execute a statement that needs the lock of the file, and wait while other processes hold
        it.

        SQLite's own handler sleeps longer and longer, up to 0.1 s, while processes that have just
        written write again. Short random waits let every process have its turn.
        """
        began = time.monotonic()
        warn_at = began + LONG_WAIT
        while True:
            try:
                return self._fetch(statement, parameters)
            except sqlite3.OperationalError as error:
                now = time.monotonic()
                if not is_busy(error) or now > began + self._patience:
                    raise
            if now > warn_at:
                warn_at = math.inf
                logger.warning(
                    "%s: an operation has waited %g s for the lock for writing; %s holds it",
                    self._path,
                    LONG_WAIT,
                    describe_writer(self._path),
                )
            time.sleep(random.uniform(0.0002, 0.002))

    def _run(
        self, prepared: list[PreparedChunk], failure: Exception | None
    ) -> tuple[list[Any], Exception | None]:
        """The results of the operations before the first that fails, and its error. ``failure``:
        the error of an operation behind all of these, which could not be started.
        """
        results: list[Any] = []
        try:
            for for_many, chunk in prepared:
                answers = self._fetch_chunk(for_many, chunk)
                for started, rows in zip(chunk, answers, strict=True):
                    results.append(started.finish(self._fetch, rows))
        except Exception as error:
            return results, explain(self._path, error)
        return results, failure

    def _fetch_chunk(
        self, for_many: MultiRowStatement | None, chunk: Sequence[StartedOperation]
    ) -> Iterable[list[Row]]:
        """The rows that the first statement of each operation returns.

        If the statement for all of them fails, each is executed alone, so that the operation that
        is to blame fails in its turn.
        """
        if for_many is not None and len(chunk) > 1:
            try:
                parameters = [started.parameters for started in chunk]
                return for_many.execute(self._connection, parameters)
            except Exception:
                if not self._connection.in_transaction:  # SQLite has rolled it back
                    raise
        return (self._fetch(started.statement, started.parameters) for started in chunk)

    def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        """The rows that a statement returns; for one that returns none, an empty one for each row
        that it has written.
        """
        cursor = self._connection.execute(statement, parameters)
        return [()] * cursor.rowcount if cursor.description is None else cursor.fetchall()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # not if SQLite has done it, on a full disk for example
            self._connection.execute("ROLLBACK")


def _start(batch: list[WaitingOperation]) -> tuple[list[PreparedChunk], Exception | None]:
    """Start the operations before the first that cannot be started, and return its error."""
    started: list[StartedOperation] = []
    failure: Exception | None = None
    try:
        for waiting in batch:
            started.append(waiting.start())
    except Exception as error:
        failure = error
    prepared: list[PreparedChunk] = []
    for first in range(0, len(started), MAX_ROWS):
        for statement, same in groupby(started[first : first + MAX_ROWS], _statement):
            for_many = MULTI_ROW_STATEMENTS.get(statement)
            prepared += ((for_many, chunk) for chunk in _split(for_many, list(same)))
    return prepared, failure


def _split(
    for_many: MultiRowStatement | None, started: Sequence[StartedOperation]
) -> Iterator[Sequence[StartedOperation]]:
    """Split operations of one statement into chunks of which each is one statement: no key is twice
    in a chunk.
    """
    if for_many is None or not for_many.takes([each.parameters for each in started]):
        yield from ([each] for each in started)
        return
    keys = [each.parameters[for_many.key] for each in started]
    first = 0
    while first < len(keys):
        size = 1 << (_count_different(keys[first:]).bit_length() - 1)
        yield started[first : first + size]
        first += size


def _count_different(keys: Sequence[tuple[Any, ...]]) -> int:
    """How many keys come before the first that is there twice."""
    if len(set(keys)) == len(keys):
        return len(keys)
    seen: set[tuple[Any, ...]] = set()
    for key in keys:
        if key in seen:
            break
        seen.add(key)
    return len(seen)
