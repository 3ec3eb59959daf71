"""The three roles on one SQLite file, which the processes of one machine may share.

Durable means durable: WAL with ``synchronous=FULL``, so that a write has returned only once it
survives a power cut. What makes that cheap is group commit: writes that wait at the same moment
share one transaction and one trip to the thread that owns the connection, and those of one kind
share statements.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

import aiosqlite

from rio.errors import ConfigurationError, SchemaMismatch, StorageClosed, StorageUnavailable
from rio.storage._sql import (
    CLAIM,
    LOAD_AND_FENCE,
    RELEASE,
    SAVE,
    SCHEMA_VERSION,
    Operation,
    Row,
    SqlDatabase,
    SqlMembershipStorage,
    SqlObjectPlacement,
    SqlState,
    check_schema_version,
)

__all__ = [
    "SqliteDatabase",
    "SqliteMembershipStorage",
    "SqliteObjectPlacement",
    "SqliteState",
    "SqliteStatistics",
]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_BATCH = 1024
"""Operations that one transaction takes at most, so that other processes get their turn."""

_SCHEMA = (
    """CREATE TABLE rio_cluster (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        schema_version INTEGER NOT NULL,
        sv INTEGER NOT NULL,
        generation_high INTEGER NOT NULL,
        token_high INTEGER NOT NULL
    )""",
    f"INSERT INTO rio_cluster VALUES (1, {SCHEMA_VERSION}, 0, 0, 0)",
    """CREATE TABLE rio_member (
        generation INTEGER PRIMARY KEY,
        address TEXT NOT NULL,
        status INTEGER NOT NULL,
        lease_counter INTEGER NOT NULL,
        metadata BLOB NOT NULL,
        votes BLOB NOT NULL
    )""",
    """CREATE TABLE rio_placement (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        generation INTEGER,
        token INTEGER NOT NULL,
        PRIMARY KEY (type_name, id)
    ) WITHOUT ROWID""",
    "CREATE INDEX rio_placement_generation ON rio_placement (generation)",
    """CREATE TRIGGER rio_token_inserted AFTER INSERT ON rio_placement
        BEGIN UPDATE rio_cluster SET token_high = max(token_high, NEW.token); END""",
    """CREATE TRIGGER rio_token_updated AFTER UPDATE OF token ON rio_placement
        BEGIN UPDATE rio_cluster SET token_high = max(token_high, NEW.token); END""",
    """CREATE TABLE rio_state (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        state_name TEXT NOT NULL,
        version INTEGER NOT NULL,
        token INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    )""",
)

_WHAT_TO_DO = {
    sqlite3.SQLITE_BUSY: "another process holds its lock for longer than busy_timeout: look for a stuck process or a long transaction",
    sqlite3.SQLITE_FULL: "the disk is full: free some space, nothing was written",
    sqlite3.SQLITE_READONLY: "it is read-only: make the file and its directory writable for this user",
    sqlite3.SQLITE_IOERR: "the disk or a limit on file sizes refused: look at the disk, its quota and the system's log",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: its directory must exist and be writable for this user",
    sqlite3.SQLITE_CORRUPT: "it is damaged: keep a copy, then restore a backup or try SQLite's .recover",
    sqlite3.SQLITE_NOTADB: "it is no SQLite database and was left untouched: choose another file",
    sqlite3.SQLITE_ERROR: "its tables are not those of this version of rio: choose another file, or the version that made it",
}
_OTHER_SCHEMA = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


class SqliteStatistics(NamedTuple):
    """What a database has done since it was opened."""

    writes: int
    """Writing operations that were committed."""
    write_transactions: int
    """Transactions in which they were; fewer than ``writes`` where they were grouped."""
    reads: int
    read_transactions: int


# --- statements for several rows ------------------------------------------------------------------

MAX_ROWS = 64
"""Rows of one statement at most; a power of two, as all numbers of rows are, so that few different
statements are ever prepared.
"""


class _Batch:
    """A statement of :mod:`rio.storage._sql` for several rows. It returns the keys of the rows,
    then what the single one returns.

    ``many``: with ``{rows}`` where they belong; each has the parameters in their order, and its
    number after them. ``key``: which of them are the row's key. A key is in a statement only once.
    ``empty``: one that must be ``None``.
    """

    def __init__(self, many: str, key: slice, empty: int | None = None) -> None:
        self._many = many
        self._key = key
        self._empty = empty
        self._texts: dict[int, str] = {}

    def takes(self, parameters: Sequence[Any]) -> bool:
        return self._empty is None or parameters[self._empty] is None

    def key_of(self, parameters: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(parameters[self._key])

    def execute(
        self, connection: sqlite3.Connection, asked: Sequence[Sequence[Any]]
    ) -> list[list[Row]]:
        """What the single statement would have returned for each."""
        text = self._texts.get(len(asked)) or self._text(len(asked), len(asked[0]))
        answers = connection.execute(text, list(chain.from_iterable(asked))).fetchall()
        width = self._key.stop - self._key.start
        found = {answer[:width]: [answer[width:]] for answer in answers}
        return [found.get(self.key_of(parameters), []) for parameters in asked]

    def _text(self, rows: int, parameters: int) -> str:
        marks = "?, " * parameters
        text = self._many.format(
            rows=", ".join(f"({marks}{number})" for number in range(1, rows + 1))
        )
        self._texts[rows] = text
        return text


NEXT_TOKEN = "(SELECT token_high + 1 FROM rio_cluster)"  # raised by a trigger in the same statement

_BATCHES = {
    CLAIM.format(next_token=NEXT_TOKEN): _Batch(
        "INSERT INTO rio_placement AS p (type_name, id, generation, token)"
        " SELECT column1, column2, column3, token_high + column5 FROM (VALUES {rows}), rio_cluster WHERE 1 ORDER BY column5"
        " ON CONFLICT (type_name, id) DO UPDATE SET generation = excluded.generation, token = excluded.token"
        " WHERE p.generation IS NULL OR p.generation = excluded.generation"
        " RETURNING type_name, id, generation, token",
        key=slice(0, 2),
        empty=3,  # it supersedes nobody
    ),
    RELEASE: _Batch(
        "UPDATE rio_placement AS p SET generation = NULL FROM (VALUES {rows})"
        " WHERE p.type_name = column1 AND p.id = column2 AND p.token = column3 AND p.generation IS NOT NULL"
        " RETURNING type_name, id, token",
        key=slice(0, 2),
    ),
    LOAD_AND_FENCE: _Batch(
        "INSERT INTO rio_state AS s (type_name, id, state_name, version, token, data)"
        " SELECT column1, column2, column3, 0, column4, column5 FROM (VALUES {rows}) WHERE 1"
        " ON CONFLICT (type_name, id, state_name) DO UPDATE SET token = excluded.token WHERE s.token <= excluded.token"
        " RETURNING type_name, id, state_name, version, data",
        key=slice(0, 3),
    ),
    SAVE: _Batch(
        "UPDATE rio_state AS s SET version = s.version + 1, data = column1 FROM (VALUES {rows})"
        " WHERE s.type_name = column2 AND s.id = column3 AND s.state_name = column4 AND s.token = column5 AND s.version = column6"
        " RETURNING type_name, id, state_name, version",
        key=slice(1, 4),
    ),
}


class _Started(NamedTuple):
    """An operation whose first statement is to be executed."""

    steps: Operation[Any]
    statement: str
    parameters: Sequence[Any]

    def finish(self, fetch: Callable[[str, Sequence[Any]], list[Row]], rows: list[Row]) -> Any:
        """Its result, the rows being what the first statement returned.

        ``fetch`` executes the others.
        """
        try:
            while True:
                rows = fetch(*self.steps.send(rows))
        except StopIteration as end:
            return end.value


def _chunks(kind: _Batch | None, asked: Sequence[_Started]) -> Iterator[Sequence[_Started]]:
    """As many at a time as one statement takes, no key twice among them."""
    if kind is None or not all(kind.takes(started.parameters) for started in asked):
        yield from ([started] for started in asked)
        return
    while asked:
        keys: set[tuple[Any, ...]] = set()
        for started in asked:
            key = kind.key_of(started.parameters)
            if key in keys:
                break
            keys.add(key)
        size = 1 << (len(keys).bit_length() - 1)
        yield asked[:size]
        asked = asked[size:]


# --- one connection -------------------------------------------------------------------------------


class _Waiting(NamedTuple):
    """One operation, and the future of the caller who waits for it."""

    operation: Callable[..., Operation[Any]]
    args: tuple[Any, ...]
    future: asyncio.Future[Any]

    def start(self) -> _Started:
        steps = self.operation(*self.args)
        return _Started(steps, *next(steps))

    def settle(self, fate: Any) -> None:
        if self.future.done():  # the caller was cancelled meanwhile
            return
        if isinstance(fate, BaseException):
            self.future.set_exception(fate)
        else:
            self.future.set_result(fate)


class _Lane:
    """One connection on its own thread, and the operations that wait for it, served a batch at a
    time.

    Callers only ever wait for a future. Cancelling one drops its operation if that has not begun,
    and cannot disturb a batch that has. A lane must not refer to its database, or a forgotten
    database would never be collected.
    """

    def __init__(
        self, path: str, begin: str, patience: float, connect: Callable[[], sqlite3.Connection]
    ) -> None:
        self._path = path
        self._begin = begin
        self._patience = patience
        self._connect = connect
        self._connection: sqlite3.Connection
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._owner = aiosqlite.Connection(self._connect_and_keep, iter_chunk_size=64)
        self._owner._thread.daemon = (
            True  # private, but a thread that is not a daemon hangs the exit of who forgets close()
        )
        self.operations = 0
        """Operations that were committed."""
        self.transactions = 0

    async def open(self) -> None:
        try:
            await self._owner
        except Exception:
            self._owner._thread.join()  # it is ending, and must not do so after the loop
            raise

    async def close(self) -> None:
        """Serve all that waits, then disconnect."""
        await self._idle.wait()
        await self._owner.close()

    def abandon(self) -> None:
        """Disconnect and end the thread, without a loop and without waiting."""
        self._call(self._owner.stop)

    def submit(
        self, operation: Callable[..., Operation[Any]], args: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._waiting.append(_Waiting(operation, args, future))
        if self._idle.is_set():
            self._idle.clear()
            self._loop.call_soon(self._send)
        return future

    def _send(self) -> None:
        """Send what waits to the thread; one turn of the loop after the first submission, so that
        others can join it.
        """
        taken, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
        taken.sort(
            key=lambda waiting: waiting.operation.__name__
        )  # of one kind, one after the other
        self._call(
            partial(self._serve, [waiting for waiting in taken if not waiting.future.done()])
        )

    def _settle(self, batch: list[_Waiting], fates: list[Any]) -> None:
        for waiting, fate in zip(batch, fates, strict=True):
            waiting.settle(fate)
        if self._waiting:
            self._loop.call_soon(
                self._send
            )  # after those who were just answered, who may have more
        else:
            self._idle.set()

    def _call(self, function: Callable[[], object]) -> None:
        # The queue of the connection's thread is private, but aiosqlite has no public way to run
        # one function there, a trip for each statement costs ten times the statement, and its own
        # _execute() breaks the thread when the loop is closed before the answer.
        self._owner._tx.put_nowait((None, function))

    # from here on, on the connection's thread

    def _connect_and_keep(self) -> sqlite3.Connection:
        try:
            self._connection = self._connect()
        except sqlite3.Error as error:
            raise _explained(self._path, error) from error
        return self._connection

    def _serve(self, batch: list[_Waiting]) -> None:
        try:
            fates = self._transact(batch)
        except BaseException as error:  # whatever it is, nobody may be left waiting
            fates = [
                StorageUnavailable(f"{self._path}: {error!r}; it may have been done or not")
                for _ in batch
            ]
        try:
            self._loop.call_soon_threadsafe(self._settle, batch, fates)
        except RuntimeError:
            assert self._loop.is_closed()  # and with it went everyone who waited

    def _transact(self, batch: list[_Waiting]) -> list[Any]:
        """The fate of each operation: its result, or its own error."""
        fates: list[Any] = []
        while len(fates) < len(batch):
            left = batch[len(fates) :]
            fates += self._do_alone(*left) if len(left) == 1 else self._commit(left)
        return fates

    def _do_alone(self, waiting: _Waiting) -> list[Any]:
        """The fate of one operation, without the statements round it where SQLite makes a
        transaction of its first one by itself.
        """
        try:
            started = waiting.start()
            if started.statement not in _BATCHES:
                return self._commit([waiting])
            result = started.finish(
                self._patiently, self._patiently(started.statement, started.parameters)
            )
        except Exception as error:
            return [_explained(self._path, error)]
        self.transactions += 1
        self.operations += 1
        return [result]

    def _commit(self, batch: list[_Waiting]) -> list[Any]:
        """Commit all in one transaction; or, if one fails, those before it, and return the fates up
        to its own.
        """
        try:
            self._patiently(self._begin)
            results, failure = self._run(batch)
            if failure is None:
                self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            return [_explained(self._path, error) for _ in batch]
        if failure is not None:
            self._roll_back()
            return [*self._transact(batch[: len(results)]), failure]
        self.transactions += 1
        self.operations += len(batch)
        return results

    def _patiently(self, statement: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """Execute what needs the lock of the file, and wait for other processes where they are
        writing.

        SQLite's own handler sleeps longer and longer, up to 0.1 s, while those who have just
        written write again; short random waits let every process have its turn.
        """
        deadline = time.monotonic() + self._patience
        while True:
            try:
                return self._fetch(statement, parameters)
            except sqlite3.OperationalError as error:
                if (
                    error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY
                    or time.monotonic() > deadline
                ):
                    raise
            time.sleep(random.uniform(0.0002, 0.002))

    def _run(self, batch: list[_Waiting]) -> tuple[list[Any], Exception | None]:
        """The results of the operations up to the first that fails, and its error."""
        results: list[Any] = []
        try:
            for first in range(0, len(batch), MAX_ROWS):
                for started, rows in self._begun(batch[first : first + MAX_ROWS]):
                    results.append(started.finish(self._fetch, rows))
        except Exception as error:
            return results, _explained(self._path, error)
        return results, None

    def _begun(self, batch: list[_Waiting]) -> Iterator[tuple[_Started, list[Row]]]:
        """Each operation, with what its first statement returned; or the error of the first that
        cannot be begun.
        """
        started: list[_Started] = []
        failure: Exception | None = None
        try:
            for waiting in batch:
                started.append(waiting.start())
        except Exception as error:
            failure = error
        for statement, asked in groupby(started, attrgetter("statement")):
            kind = _BATCHES.get(statement)
            for chunk in _chunks(kind, list(asked)):
                yield from zip(chunk, self._rows(kind, chunk), strict=True)
        if failure is not None:
            raise failure

    def _rows(self, kind: _Batch | None, chunk: Sequence[_Started]) -> Iterator[list[Row]]:
        """What the first statement of each returns.

        Where all cannot be done at once, the one that is to blame fails in its turn.
        """
        if kind is not None and len(chunk) > 1:
            try:
                yield from kind.execute(self._connection, [started.parameters for started in chunk])
                return
            except Exception:
                if not self._connection.in_transaction:  # SQLite has given it up
                    raise
        for started in chunk:
            yield self._fetch(started.statement, started.parameters)

    def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        return self._connection.execute(statement, parameters).fetchall()

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # SQLite has done it itself if the disk was full
            self._connection.execute("ROLLBACK")


def _explained(path: str, error: Exception) -> Exception:
    """The error that callers get: sqlite3's own are translated, anything else is theirs."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return error
    code &= 0xFF  # the primary code
    what_to_do = _WHAT_TO_DO.get(code, "SQLite could not do it")
    cls = SchemaMismatch if code in _OTHER_SCHEMA else StorageUnavailable
    explained = cls(f"{path}: {what_to_do} ({error})")
    explained.__cause__ = error
    return explained


def _connect_writer(path: str, busy_timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
    try:
        _switch_to_wal(connection, time.monotonic() + busy_timeout)
        connection.execute("PRAGMA synchronous = FULL")
        _create_schema(connection)
        [(version,)] = connection.execute(
            "SELECT coalesce(max(schema_version), 0) FROM rio_cluster"
        )
        check_schema_version(path, version)
        connection.execute("PRAGMA busy_timeout = 0")  # from here on the lane waits itself
    except BaseException:
        connection.close()
        raise
    return connection


def _connect_reader(path: str, busy_timeout: float) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _switch_to_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Try until ``deadline``: SQLite does not wait for others here, since two that switch at once
    could wait for each other.
    """
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))


def _create_schema(connection: sqlite3.Connection) -> None:
    if _has_schema(connection):
        return
    connection.execute("BEGIN IMMEDIATE")
    if not _has_schema(connection):  # another process may have been faster
        for statement in _SCHEMA:
            connection.execute(statement)
    connection.execute("COMMIT")


def _has_schema(connection: sqlite3.Connection) -> bool:
    return bool(
        connection.execute(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'rio_cluster'"
        ).fetchall()
    )


# --- the database and the roles on it -------------------------------------------------------------


class SqliteDatabase(SqlDatabase):
    """One SQLite file, for roles to share: a connection that writes and one that reads, each on its
    own thread.
    """

    next_token = NEXT_TOKEN
    _lanes: tuple[_Lane, _Lane] | None = None
    """The connection that writes and the one that reads, while the database is open."""

    def __init__(self, path: str | os.PathLike[str], /, *, busy_timeout: float = 5.0) -> None:
        """:param busy_timeout: seconds to wait for another process to finish its transaction.

        :raises ConfigurationError: the path is empty or SQLite's name for a database in memory, or
        the timeout is not 0 to 3600.
        """
        super().__init__()
        name = os.fspath(path)
        if not name or name == ":memory:":
            raise ConfigurationError(
                f"{name!r} is no file; for storages in memory use rio.storage.local, or the URL memory://"
            )
        if not 0 <= busy_timeout <= 3600:
            raise ConfigurationError(f"busy_timeout must be 0 to 3600 seconds, got {busy_timeout}")
        self.path = os.path.abspath(name)
        self.busy_timeout = busy_timeout

    def __repr__(self) -> str:
        return f"SqliteDatabase({self.path!r})"

    def statistics(self) -> SqliteStatistics:
        """What was done since the database was opened.

        :raises StorageClosed: it is not open.
        """
        writer, reader = self._opened()
        return SqliteStatistics(
            writer.operations, writer.transactions, reader.operations, reader.transactions
        )

    def write(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        writer, _ = self._opened()
        return writer.submit(operation, args)

    def read(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        _, reader = self._opened()
        return reader.submit(operation, args)

    def _opened(self) -> tuple[_Lane, _Lane]:
        if self._lanes is None:
            raise StorageClosed(f"{self!r} is not open: call prepare() on a role that uses it")
        return self._lanes

    async def _open(self) -> None:
        writer = _Lane(
            self.path,
            "BEGIN IMMEDIATE",
            self.busy_timeout,
            partial(_connect_writer, self.path, self.busy_timeout),
        )
        reader = _Lane(
            self.path,
            "BEGIN",
            self.busy_timeout,
            partial(_connect_reader, self.path, self.busy_timeout),
        )
        await writer.open()
        try:
            await reader.open()
        except BaseException:
            await writer.close()
            raise
        self._lanes = writer, reader

    async def _close(self) -> None:
        writer, reader = self._opened()
        self._lanes = None
        try:
            await writer.close()
        finally:
            await reader.close()

    def __del__(self) -> None:
        if self._lanes is not None:
            for lane in self._lanes:
                lane.abandon()
            warnings.warn(
                f"{self!r} was not closed: use 'async with', or call close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


def _database(where: str | os.PathLike[str] | SqliteDatabase) -> SqliteDatabase:
    return where if isinstance(where, SqliteDatabase) else SqliteDatabase(where)


class SqliteMembershipStorage(SqlMembershipStorage):
    """Members in a SQLite file: a path, or a database shared with other roles."""

    def __init__(self, where: str | os.PathLike[str] | SqliteDatabase, /) -> None:
        super().__init__(_database(where))


class SqliteObjectPlacement(SqlObjectPlacement):
    """Placements in a SQLite file: a path, or a database shared with other roles."""

    def __init__(self, where: str | os.PathLike[str] | SqliteDatabase, /) -> None:
        super().__init__(_database(where))


class SqliteState(SqlState):
    """States in a SQLite file: a path, or a database shared with other roles."""

    def __init__(self, where: str | os.PathLike[str] | SqliteDatabase, /) -> None:
        super().__init__(_database(where))
