"""One PostgreSQL database, for roles to share."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from rio.contracts.state import StoredState
from rio.errors import ConfigurationError, StorageClosed
from rio.identity import ObjectId
from rio.logs import Logger
from rio.storage._connector import Connector
from rio.storage._migrations import SchemaStatus
from rio.storage._sql import (
    LIST,
    LOCK_VERSION,
    READ,
    RENEW,
    SET_ANCHOR,
    SET_MORE,
    SNAPSHOT,
    Operation,
    Row,
    SqlDatabase,
    Statement,
)
from rio.storage._url_form import show_url, split_url
from rio.storage.postgres._dialer import COMMAND_TIMEOUT, PostgresDialer, drop
from rio.storage.postgres._errors import TEMPORARY, explain
from rio.storage.postgres._lane import PostgresLane
from rio.storage.postgres._listener import ChangeListener
from rio.storage.postgres._pool import PostgresPool
from rio.storage.postgres._schema import (
    NEXT_AFTER,
    NEXT_TOKEN,
    current_schema,
    migrate,
    prepare_schema,
    read_status,
)
from rio.storage.postgres._statements import (
    ARRAY_STATEMENTS,
    SAVE_FIRST_OF_SEVERAL,
    SAVE_FIRST_OF_SEVERAL_AS_OWNER,
    SAVE_SEVERAL,
    encode_names,
    number_placeholders,
)

logger = Logger("rio.storage")

_WITH_NAMES = {LIST, READ, LOCK_VERSION, SET_ANCHOR, SET_MORE}
"""Statements for one object that are not gathered, and whose texts are all names."""

LONGEST_TRANSACTION = 10 * COMMAND_TIMEOUT
"""Seconds for several statements, each in its own time."""

_OF_OBJECTS = (
    *(each.one for each in ARRAY_STATEMENTS.values()),
    *(each.many for each in ARRAY_STATEMENTS.values()),
    *(SAVE_FIRST_OF_SEVERAL, SAVE_FIRST_OF_SEVERAL_AS_OWNER, SAVE_SEVERAL),
    SNAPSHOT,
)
"""The statements that a server executes again and again."""

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class PostgresStatistics(NamedTuple):
    """What a database has done since it was opened."""

    rows: int
    """Claims, lookups, releases, loads and saves."""
    statements: int
    """The statements in which they went to the server: fewer than ``rows`` if they were
    gathered.
    """


class OpenConnections(NamedTuple):
    """What an open database consists of."""

    pool: PostgresPool
    lease: PostgresPool
    """One connection, for the lease alone."""
    lanes: dict[str, PostgresLane]
    """By the names in ``ARRAY_STATEMENTS``."""
    listener: ChangeListener
    tasks: set[asyncio.Task[Any]]
    """Statements on behalf of callers, who may be gone."""


class PostgresDatabase(SqlDatabase):
    """One PostgreSQL database (and ``search_path``), for roles to share.

    ``url``: ``postgres://user:password@host:port/database``, with several hosts if one may take
    over from another. Its options are those of libpq (``sslmode``, ``target_session_attrs``) and
    settings of the session (``search_path``). ``pool_size``: connections at most, besides one for
    the lease and one that listens.

    The first of its roles that is prepared opens it, the last that is closed closes it. A statement
    may take 2 seconds.

    :raises ConfigurationError: the URL is none of PostgreSQL, or ``pool_size`` is below 1.
    """

    _next_after = NEXT_AFTER
    _next_token = NEXT_TOKEN
    _opened: OpenConnections | None = None

    def __init__(self, url: str, /, *, pool_size: int = 5) -> None:
        super().__init__()
        right = "postgres://user:password@host:port/database"
        if split_url(url, right).scheme not in ("postgres", "postgresql"):
            raise ConfigurationError(f"{show_url(url)!r} is no URL of PostgreSQL: write {right}")
        if pool_size < 1:
            raise ConfigurationError(f"pool_size must be at least 1, got {pool_size}")
        self._dialer = PostgresDialer(url)
        self._pool_size = pool_size

    @property
    def _history(self) -> str:
        return self._dialer.history

    @property
    def _schema(self) -> int:
        return current_schema()

    def __repr__(self) -> str:
        return f"PostgresDatabase({self._dialer.server!r})"

    def statistics(self) -> PostgresStatistics:
        """What the database has done since it was opened.

        :raises StorageClosed: the database is not open.
        """
        lanes = self._require_open().lanes.values()
        return PostgresStatistics(
            sum(lane.rows for lane in lanes), sum(lane.statements for lane in lanes)
        )

    async def _write(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        """As :meth:`SqlDatabase._write`. These operations are rare: they run one after the other in
        the whole cluster, as they do in SQLite.
        """

        async def transact(connection: Any) -> T:
            await connection.execute("BEGIN; SELECT FROM rio_cluster FOR UPDATE")
            result = await _drive(operation(*args), _fetcher(connection))
            await connection.execute("COMMIT")
            return result

        run = self._require_open().pool.run(transact, patience=LONGEST_TRANSACTION)
        return await self._detach(run)

    async def _write_each(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        return await _drive(operation(*args), self._fetch)

    def _write_row(self, statement: str, parameters: tuple[Any, ...]) -> Awaitable[list[Row]]:
        for_arrays = ARRAY_STATEMENTS[statement]
        lanes = (self._opened or self._require_open()).lanes
        return lanes[for_arrays.lane].submit(for_arrays, encode_names(parameters))

    async def _write_apart(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        def run(connection: Any) -> Awaitable[T]:
            return _drive(operation(*args), _fetcher(connection))

        return await self._detach(self._require_open().lease.run(run, repeatable=True))

    async def _write_once(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        def run(connection: Any) -> Awaitable[T]:
            return _drive(operation(*args), _fetcher(connection))

        return await self._detach(self._require_open().pool.run(run))

    def _keep_ready(self) -> None:
        """Have connections ready for the statements of objects: no save should wait for them."""
        if self._opened is not None:  # else it was closed meanwhile
            self._opened.pool.keep_ready(_OF_OBJECTS)

    def _keep_lease_ready(self) -> None:
        """Have the connection of the lease ready for its renewals."""
        if self._opened is not None:
            self._opened.lease.keep_ready((number_placeholders(RENEW),))

    async def _save_several(
        self,
        object_id: ObjectId,
        token: int,
        version: int,
        states: Mapping[str, StoredState],
        as_owner: bool,
    ) -> bool:
        first = SAVE_FIRST_OF_SEVERAL_AS_OWNER if as_owner else SAVE_FIRST_OF_SEVERAL
        statement = SAVE_SEVERAL if version else first
        names, data, schemas = zip(
            *((name.encode(), data, schema) for name, (data, schema) in states.items()), strict=True
        )
        parameters = [*encode_names(object_id), token, names, schemas, data]
        if version:
            parameters.append(version)

        def run(connection: Any) -> Awaitable[list[Any]]:
            return connection.fetch_in_time(statement, *parameters)  # type: ignore[no-any-return]  # untyped

        return bool(await self._detach(self._require_open().pool.run(run)))

    async def _read(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        return await _drive(operation(*args), self._fetch)

    async def _wait_for_change(self, version: int, timeout: float) -> None:
        """See :meth:`rio.contracts.MembershipStorage.wait_for_change`."""
        await self._require_open().listener.wait(version, timeout)

    async def _fetch(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        for_arrays = ARRAY_STATEMENTS.get(statement)
        if for_arrays is not None:
            lane = self._require_open().lanes[for_arrays.lane]
            return await lane.submit(for_arrays, encode_names(parameters))
        run = self._require_open().pool.run(
            lambda connection: _fetcher(connection)(statement, parameters), repeatable=True
        )
        return await self._detach(run)

    async def _detach(self, run: Awaitable[T]) -> T:
        """Run it to its end whatever happens to the caller, so that no connection is left in the
        middle of a statement.
        """
        tasks = self._require_open().tasks
        task = asyncio.ensure_future(run)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_log_failure)
        return await asyncio.shield(task)

    def _require_open(self) -> OpenConnections:
        if self._opened is None:
            raise StorageClosed(f"{self!r} is not open: call prepare() on a role that uses it")
        return self._opened

    async def _open(self) -> None:
        pool = PostgresPool(self._dialer, self._pool_size)
        try:
            await pool.run(
                lambda connection: prepare_schema(connection, self._dialer.server),
                patience=LONGEST_TRANSACTION,
            )
        except BaseException:
            await pool.close()
            raise
        lease = PostgresPool(self._dialer, 1)
        lanes = {statement.lane: PostgresLane(pool) for statement in ARRAY_STATEMENTS.values()}
        self._opened = OpenConnections(pool, lease, lanes, ChangeListener(self._dialer), set())

    async def _read_schema_status(self) -> SchemaStatus:
        async with self._alone() as connection:
            return await read_status(connection, self._dialer.server)

    async def _migrate(self) -> None:
        async with self._alone() as connection:
            await migrate(connection, self._dialer.server)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[Any]:
        """A connection whose statements may take long."""
        server = self._dialer.server
        connection = await Connector(server, self._dialer.dial, TEMPORARY, drop).connect()
        try:
            yield connection
        except Exception as error:
            explained = explain(server, error)
            if explained is error:
                raise
            raise explained from error
        finally:
            connection.terminate()

    async def _close(self) -> None:
        opened, self._opened = self._require_open(), None
        try:
            await opened.listener.close()
            await asyncio.gather(*(lane.wait_until_idle() for lane in opened.lanes.values()))
            if opened.tasks:
                await asyncio.wait(opened.tasks)
        finally:
            await asyncio.gather(opened.pool.close(), opened.lease.close())

    def __del__(self) -> None:
        if self._opened is not None:
            warnings.warn(
                f"{self!r} was not closed: use 'async with', or call close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


def _fetcher(connection: Any) -> Callable[[str, Sequence[Any]], Awaitable[list[Row]]]:
    """What executes one statement on a connection."""

    async def fetch(statement: str, parameters: Sequence[Any]) -> list[Row]:
        if statement in _WITH_NAMES:
            parameters = encode_names(parameters)
        rows = await connection.fetch_in_time(number_placeholders(statement), *parameters)
        return [tuple(row) for row in rows]

    return fetch


async def _drive(
    operation: Operation[T], fetch: Callable[[str, Sequence[Any]], Awaitable[list[Row]]]
) -> T:
    """Run an operation by awaiting each of its statements."""
    statement: Statement
    try:
        statement = next(operation)
        while True:
            statement = operation.send(await fetch(*statement))
    except StopIteration as end:
        result: T = end.value
        return result


def _log_failure(task: asyncio.Task[Any]) -> None:
    """Take note of a failure whose caller may be gone."""
    if not task.cancelled() and task.exception() is not None:
        logger.debug("a statement failed: %r", task.exception())
