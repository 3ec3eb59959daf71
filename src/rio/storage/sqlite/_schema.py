"""The tables of ``rio`` in a SQLite file."""

from __future__ import annotations

import sqlite3

from rio.storage._sql import SCHEMA_VERSION, check_schema_version

NEXT_TOKEN = "(SELECT token_high + 1 FROM rio_cluster)"
"""The next token. A trigger raises ``token_high`` in the statement that uses it."""

_SCHEMA = (
    """CREATE TABLE rio_cluster (
        single_row INTEGER PRIMARY KEY CHECK (single_row = 1),
        schema_version INTEGER NOT NULL,
        snapshot_version INTEGER NOT NULL,
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


def prepare_schema(connection: sqlite3.Connection, path: str) -> None:
    """Create the tables if there are none, and check their version.

    :raises SchemaMismatch: another version of ``rio`` made them.
    """
    _create_schema(connection)
    [(version,)] = connection.execute("SELECT coalesce(max(schema_version), 0) FROM rio_cluster")
    check_schema_version(path, version)


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
