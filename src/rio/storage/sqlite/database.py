"""One SQLite file, for roles to share."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import warnings
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from typing import Any, NamedTuple, TypeVar, TypeVarTuple

from rio.errors import ConfigurationError, StorageClosed, StorageUnavailable
from rio.storage._migrations import SchemaStatus
from rio.storage._sql import Operation, Row, SqlDatabase, run_statement
from rio.storage._url_form import show_url
from rio.storage.sqlite._connection import (
    OpenFile,
    connect_reader,
    connect_to_migrate,
    connect_writer,
)
from rio.storage.sqlite._errors import explain
from rio.storage.sqlite._lane import SqliteLane
from rio.storage.sqlite._schema import (
    NEXT_AFTER,
    NEXT_TOKEN,
    current_schema,
    migrate,
    read_status,
)
from rio.storage.sqlite._statements import MULTI_ROW_STATEMENTS

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class SqliteStatistics(NamedTuple):
    """What a database has done since it was opened."""

    writes: int
    """Operations that wrote and were committed."""
    write_transactions: int
    """The transactions in which they were committed: fewer than ``writes`` if they were grouped."""
    reads: int
    """Operations that read."""
    read_transactions: int
    """The transactions in which they read: fewer than ``reads`` if they were grouped."""


class SqliteDatabase(SqlDatabase):
    """One SQLite file, for roles to share: a connection that writes and a connection that reads,
    each on a thread of its own.

    ``path``: the file, which is created if it is not there; its directory must exist.
    ``busy_timeout``: seconds, from 0 to 3600, to wait for the transaction of another process.

    The first of its roles that is prepared opens it, the last that is closed closes it.

    :raises ConfigurationError: the path is empty or SQLite's name for a database in memory, or
        the timeout is out of its range.
    """

    _next_after = NEXT_AFTER
    _next_token = NEXT_TOKEN
    _lanes: tuple[SqliteLane, SqliteLane] | None = None
    """The connection that writes and the one that reads, while the database is open."""

    def __init__(self, path: str | os.PathLike[str], /, *, busy_timeout: float = 5.0) -> None:
        super().__init__()
        name = os.fspath(path)
        if not name or name == ":memory:":
            raise ConfigurationError(
                f"{name!r} is no file; for storages in memory use rio.storage.local,"
                " or the URL memory://"
            )
        if "://" in name:
            raise ConfigurationError(
                f"{show_url(name)!r} is a URL, and not the path of a file: open it with"
                " rio.open_storage(...), or give the path"
            )
        if not 0 <= busy_timeout <= 3600:
            raise ConfigurationError(f"busy_timeout must be 0 to 3600 seconds, got {busy_timeout}")
        self.path = os.path.abspath(name)
        """The absolute path of the file."""
        self.busy_timeout = busy_timeout
        """Seconds to wait for the transaction of another process."""

    @property
    def _schema(self) -> int:
        return current_schema()

    def __repr__(self) -> str:
        return f"SqliteDatabase({self.path!r})"

    def statistics(self) -> SqliteStatistics:
        """What the database has done since it was opened.

        :raises StorageClosed: the database is not open.
        """
        writer, reader = self._require_lanes()
        return SqliteStatistics(
            writer.operations, writer.transactions, reader.operations, reader.transactions
        )

    def _write(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        lanes = self._lanes or self._require_lanes()
        return lanes[0].submit(operation, args)

    _write_each = _write_apart = _write

    def _write_row(self, statement: str, parameters: tuple[Any, ...]) -> Awaitable[list[Row]]:
        lanes = self._lanes or self._require_lanes()
        kind = MULTI_ROW_STATEMENTS[statement].kind
        return lanes[0].submit(run_statement, (statement, parameters), kind)

    def _read(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        lanes = self._lanes or self._require_lanes()
        return lanes[1].submit(operation, args)

    def _require_lanes(self) -> tuple[SqliteLane, SqliteLane]:
        if self._lanes is None:
            raise StorageClosed(f"{self!r} is not open: call prepare() on a role that uses it")
        return self._lanes

    @property
    def _history(self) -> str:
        """Which file it is: a file that replaces it may hold something older."""
        return "" if self._lanes is None else self._lanes[0].history

    async def _open(self) -> None:
        path, patience = self.path, self.busy_timeout
        writer = SqliteLane(
            path, "BEGIN IMMEDIATE", patience, partial(connect_writer, path, patience)
        )
        reader = SqliteLane(path, "BEGIN", patience, partial(connect_reader, path, patience))
        await writer.open()
        try:
            await reader.open()
        except BaseException:
            await writer.close()
            raise
        self._lanes = writer, reader

    async def _read_schema_status(self) -> SchemaStatus:
        reader = partial(connect_reader, self.path, self.busy_timeout, False)
        return await asyncio.to_thread(self._run_alone, reader, read_status)

    async def _migrate(self) -> None:
        writer = partial(connect_to_migrate, self.path, self.busy_timeout)
        await asyncio.to_thread(self._run_alone, writer, migrate)

    def _run_alone(
        self, connect: Callable[[], OpenFile], run: Callable[[sqlite3.Connection, str], T]
    ) -> T:
        """Run something on a connection of its own, which a failure rolls back."""
        if not os.path.exists(self.path):
            raise StorageUnavailable(
                f"{self.path}: there is no such file; the first server that starts there makes it"
            )
        try:
            with closing(connect()) as opened:
                return run(opened.connection, self.path)
        except sqlite3.Error as error:
            raise explain(self.path, error) from error

    async def _close(self) -> None:
        writer, reader = self._require_lanes()
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
