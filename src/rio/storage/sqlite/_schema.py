"""The tables of ``rio`` in a SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from rio.storage._migrations import (
    Migration,
    SchemaStatus,
    check_schema,
    newest_schema,
    pending,
)
from rio.storage._rows import row_corrupt
from rio.storage._sql import LIVE_MEMBERS

NEXT_AFTER = "max({high} + 1, CAST((julianday('now') - 2440587.5) * 86400000000 AS INTEGER))"
"""The next number after ``high``, at least the microseconds since 1970, which was Julian day
2440587.5. The time stands still during a statement.
"""
NEXT_TOKEN = f"(SELECT {NEXT_AFTER.format(high='token_high')} FROM rio_cluster)"
"""The next token. A trigger raises ``token_high`` in the statement that uses it."""

_SCHEMA_1 = (
    """CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version INTEGER NOT NULL,
        snapshot_version INTEGER NOT NULL,
        generation_high INTEGER NOT NULL,
        token_high INTEGER NOT NULL,
        cluster_id TEXT NOT NULL,
        adopted_by TEXT NOT NULL DEFAULT '',
        settings BLOB NOT NULL DEFAULT x''
    )""",
    "INSERT INTO rio_cluster (single_row, schema_version, snapshot_version, generation_high,"
    " token_high, cluster_id) VALUES (1, 1, 0, 0, 0, lower(hex(randomblob(16))))",
    """CREATE TABLE rio_member (
        generation INTEGER PRIMARY KEY,
        address TEXT NOT NULL,
        status INTEGER NOT NULL,
        lease_counter INTEGER NOT NULL,
        metadata BLOB NOT NULL,
        votes BLOB NOT NULL,
        manifest BLOB NOT NULL,
        manifest_digest BLOB NOT NULL
    )""",
    """CREATE TABLE rio_placement (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        generation INTEGER NOT NULL,
        token INTEGER NOT NULL,
        PRIMARY KEY (type_name, id)
    ) WITHOUT ROWID""",
    "CREATE INDEX rio_placement_generation ON rio_placement (generation)",
    """CREATE TRIGGER rio_token_inserted AFTER INSERT ON rio_placement
        BEGIN UPDATE rio_cluster SET token_high = max(token_high, NEW.token); END""",
    """CREATE TRIGGER rio_token_updated AFTER UPDATE OF token ON rio_placement
        BEGIN UPDATE rio_cluster SET token_high = max(token_high, NEW.token); END""",
    """CREATE TABLE rio_object (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        token INTEGER NOT NULL,
        version INTEGER NOT NULL,
        has_more INTEGER NOT NULL,
        state_name TEXT NOT NULL,
        schema INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (type_name, id)
    )""",
    """CREATE TABLE rio_state (
        type_name TEXT NOT NULL,
        id TEXT NOT NULL,
        state_name TEXT NOT NULL,
        schema INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    )""",
)


MIGRATIONS: tuple[Migration, ...] = ()
"""From schema 1 on. What was released never changes."""


def current_schema() -> int:
    """The schema that this ``rio`` works on."""
    return newest_schema(MIGRATIONS)


def prepare_schema(connection: sqlite3.Connection, path: str, create: bool) -> None:
    """Create the tables if there are none and ``create`` allows it, and check their schema.

    :raises SchemaMismatch: another version of ``rio`` made them, or there are none.
    """
    if create and not has_schema(connection):
        connection.execute("BEGIN IMMEDIATE")
        if not has_schema(connection):  # another process may have been faster
            for statement in _SCHEMA_1:
                connection.execute(statement)
            _apply(connection, MIGRATIONS)
        connection.execute("COMMIT")
    check_schema(path, _read_schema(connection), current_schema())


def read_status(connection: sqlite3.Connection, path: str) -> SchemaStatus:
    """How the tables stand to those of this ``rio``."""
    found, live = 0, []
    if has_schema(connection):
        found, live = _read_schema(connection), connection.execute(LIVE_MEMBERS).fetchall()
    return SchemaStatus(
        path,
        found,
        current_schema(),
        tuple(str(address) for (address,) in live),
        tuple(migration.summary for migration in pending(MIGRATIONS, found)),
    )


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Do the migrations that the tables need in one transaction, which the caller's connection
    rolls back if it is closed before.

    :raises SchemaMismatch: a server has not ended, or a newer ``rio`` made the tables.
    """
    connection.execute("BEGIN IMMEDIATE")
    status = read_status(connection, path)
    status.check_newer()
    if status.outdated:
        status.check_quiet()
        _apply(connection, pending(MIGRATIONS, status.found))
    connection.execute("COMMIT")


def _apply(connection: sqlite3.Connection, migrations: Sequence[Migration]) -> None:
    for migration in migrations:
        for statement in migration.steps:
            connection.execute(statement)
    connection.execute("UPDATE rio_cluster SET schema_version = ?", (current_schema(),))


def _read_schema(connection: sqlite3.Connection) -> int:
    [(version,)] = connection.execute("SELECT coalesce(max(schema_version), 0) FROM rio_cluster")
    if not isinstance(version, int):
        raise row_corrupt("the row of rio_cluster", f"schema_version {version!r}")
    return version


def has_schema(connection: sqlite3.Connection) -> bool:
    """Whether ``rio`` has tables in the file."""
    return bool(
        connection.execute(
            "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'rio_cluster'"
        ).fetchall()
    )
