"""States in the columns of a table of one's own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from rio.contracts.state import TypedStateStorage
from rio.errors import (
    ConfigurationError,
    SchemaMismatch,
    StateCorrupt,
    StateNotFound,
    Superseded,
    Unsupported,
)
from rio.identity import ObjectId
from rio.storage._sql import Operation, Row, SqlDatabase, SqlRole, SqlState

T = TypeVar("T")


class SqlTable(SqlRole, TypedStateStorage[T], Generic[T]):
    """One state of the objects of one type, in a table of SQLite or PostgreSQL that other programs
    read as well. ::

        class Ledgers(SqlTable[Ledger]):
            table = "ledger"
            columns = ("owner", "cents")
            migrations = (
                "CREATE TABLE ledger (id TEXT PRIMARY KEY, rio_token BIGINT NOT NULL,"
                " rio_version BIGINT NOT NULL, owner TEXT, cents BIGINT)",
            )

            def to_row(self, state: Ledger) -> tuple[object, ...]:
                return (state.owner, state.cents)

            def to_state(self, row: tuple[Any, ...]) -> Ledger:
                return Ledger(*row)

        class Account(rio.ServiceObject):
            ledger: Ledger = rio.managed_state(storage=Ledgers)

        app_data.set(Ledgers("postgres://app@db/shop"))

    The table has the column ``id``, its primary key, the columns ``rio_token`` and ``rio_version``,
    which fence the row, and ``columns``, each of which is NULL or has a default in a row that was
    not saved yet: an object that was only loaded has such a row, with ``rio_version`` 0. Others may
    read the table; whoever writes to it does so beside the fence.

    ``where``: a URL, or a :class:`rio.storage.sqlite.SqliteDatabase` or
    :class:`rio.storage.postgres.PostgresDatabase` that roles share.

    :raises ConfigurationError: the class or the URL cannot be used; the text says why.
    """

    table: ClassVar[str]
    """The name of the table, as SQL has it."""
    columns: ClassVar[Sequence[str]]
    """The names of the columns that hold the state, in the order of :meth:`to_row`."""
    migrations: ClassVar[Sequence[str]] = ()
    """SQL statements that make the table and change it, oldest first. Each is run once for a
    database, when the storage is prepared; add to the end, and never change what was released.
    """

    def __init__(self, where: str | SqlDatabase, /) -> None:
        for name in ("table", "columns"):
            if not getattr(self, name, None):
                raise ConfigurationError(f"{type(self).__name__} names no {name}: set {name} = ...")
        super().__init__(_database_at(where) if isinstance(where, str) else where)
        names = ", ".join(self.columns)
        self._fence = (
            f"INSERT INTO {self.table} (id, rio_token, rio_version) VALUES (?, ?, 0)"
            " ON CONFLICT (id) DO UPDATE SET rio_token = excluded.rio_token"
            f" WHERE {self.table}.rio_token <= excluded.rio_token RETURNING rio_version, {names}"
        )
        self._save = (
            f"UPDATE {self.table} SET {', '.join(f'{name} = ?' for name in self.columns)},"
            " rio_version = rio_version + 1"
            " WHERE id = ? AND rio_token = ? AND rio_version = ? RETURNING rio_version"
        )
        self._look = f"SELECT id, rio_token, rio_version, {names} FROM {self.table} WHERE 1 = 0"
        self._type_name: str | None = None

    @abstractmethod
    def to_row(self, state: T) -> tuple[object, ...]:
        """The values of :attr:`columns` for a state, of types that the driver takes."""

    @abstractmethod
    def to_state(self, row: tuple[Any, ...]) -> T:
        """The state in the values of :attr:`columns`."""

    async def prepare(self) -> None:
        """Open the database, and do the migrations that it has not seen. Idempotent.

        :raises StorageUnavailable: the database did not answer.
        :raises SchemaMismatch: newer code has migrated the table, a migration is wrong, or a column
            is missing.
        """
        if self._is_open:
            return
        await super().prepare()
        try:
            await self._migrate()
        except BaseException:
            await self.close()
            raise

    async def _migrate(self) -> None:
        known = len(self.migrations)
        seen = await self._write(_migrate, self.table, tuple(self.migrations)) if known else 0
        if seen > known:
            raise SchemaMismatch(
                f"{self!r}: the table {self.table} has seen {seen} migrations, and this program"
                f" knows {known}: newer code has changed it"
            )
        try:
            await self._read(_run, self._look, ())
        except SchemaMismatch as error:
            raise SchemaMismatch(
                f"{self!r}: the table {self.table} needs the columns id, rio_token, rio_version,"
                f" {', '.join(self.columns)}, and has others: {error.message}"
            ) from error

    async def load_and_fence(self, object_id: ObjectId, token: int) -> tuple[int, T]:
        self._check_identity(object_id)
        rows = await self._write_each(_run, self._fence, (object_id.id, token))
        if not rows:
            raise Superseded(f"{object_id} was fenced by a token newer than {token}")
        version, *values = rows[0]
        if version == 0:
            raise StateNotFound(f"the table {self.table} has no {object_id}")
        try:
            return version, self.to_state(tuple(values))
        except Exception as error:
            raise StateCorrupt(
                f"the row of {object_id} in {self.table} is no state:"
                f" {type(error).__name__}: {error}"
            ) from error

    async def save(self, object_id: ObjectId, token: int, version: int, state: T) -> int:
        self._check_identity(object_id)
        values = self.to_row(state)
        if len(values) != len(self.columns):
            raise TypeError(
                f"{type(self).__name__}.to_row() gave {len(values)} values for the columns"
                f" {', '.join(self.columns)}"
            )
        row = (*values, object_id.id, token, version)
        if not await self._write_once(_run, self._save, row):
            raise Superseded(
                f"{object_id} was not saved:"
                f" token {token}, version {version} is no longer what is stored"
            )
        return version + 1

    def _check_identity(self, object_id: ObjectId) -> None:
        if self._type_name is None:
            self._type_name = object_id.type_name
        if object_id.type_name != self._type_name:
            raise Unsupported(
                f"the table {self.table} has the objects of {self._type_name}, and {object_id} is"
                " of another type: give it a table of its own"
            )
        if "\0" in object_id.id:
            raise Unsupported(f"{object_id} has a NUL in its id, which no column of text can hold")


def _database_at(url: str) -> SqlDatabase:
    from rio.storage import _urls  # takes a while to import

    state = _urls.open_roles(url).get("state")
    if not isinstance(state, SqlState):
        raise ConfigurationError("a table of one's own needs sqlite:/// or postgres://")
    return state._database


def _run(statement: str, parameters: tuple[Any, ...]) -> Operation[list[Row]]:
    return (yield statement, parameters)


def _migrate(table: str, migrations: tuple[str, ...]) -> Operation[int]:
    """How many migrations the table has seen now."""
    yield (
        "CREATE TABLE IF NOT EXISTS rio_table (name TEXT PRIMARY KEY, seen BIGINT NOT NULL)",
        (),
    )
    rows = yield "SELECT seen FROM rio_table WHERE name = ?", (table,)
    seen = int(rows[0][0]) if rows else 0
    for statement in migrations[seen:]:
        yield statement, ()
    if seen < len(migrations):
        yield (
            "INSERT INTO rio_table (name, seen) VALUES (?, ?)"
            " ON CONFLICT (name) DO UPDATE SET seen = excluded.seen",
            (table, len(migrations)),
        )
    return max(seen, len(migrations))
