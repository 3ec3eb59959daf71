"""The two connections to a SQLite file: one writes, one reads."""

from __future__ import annotations

import random
import sqlite3
import time
from pathlib import Path

from rio.errors import ConfigurationError
from rio.storage.sqlite._schema import prepare_schema

OLDEST = (3, 35, 0)
"""The version of SQLite that has ``RETURNING``."""


def check_version(path: str) -> None:
    """:raises ConfigurationError: SQLite is too old."""
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(
            f"{path}: this Python has SQLite {sqlite3.sqlite_version}, and rio needs"
            f" {'.'.join(map(str, OLDEST))} or newer: use a newer SQLite, another build of Python,"
            " or another storage"
        )


def connect_writer(path: str, busy_timeout: float, create: bool) -> sqlite3.Connection:
    """A connection that writes durably. The file is created, with its tables, if it is not there
    and ``create`` allows it.

    Afterwards SQLite does not wait for locks: the lane does that itself.
    """
    check_version(path)
    connection = _open(path, busy_timeout, create)
    try:
        _switch_to_wal(connection, time.monotonic() + busy_timeout)
        connection.execute("PRAGMA synchronous = FULL")
        prepare_schema(connection, path, create)
        connection.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_migrate(path: str, busy_timeout: float) -> sqlite3.Connection:
    """A connection that writes durably, and that neither creates nor checks tables."""
    connection = _open(path, busy_timeout, create=False)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def connect_reader(path: str, busy_timeout: float, _: bool) -> sqlite3.Connection:
    """A connection that cannot write."""
    connection = _open(path, busy_timeout, create=False)
    connection.execute("PRAGMA query_only = ON")
    connection.execute("SELECT count(*) FROM sqlite_schema")  # opens -wal and -shm
    return connection


def _open(path: str, busy_timeout: float, create: bool) -> sqlite3.Connection:
    where = f"{Path(path).as_uri()}?mode={'rwc' if create else 'rw'}"
    return sqlite3.connect(where, timeout=busy_timeout, isolation_level=None, uri=True)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the lock of the file."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _switch_to_wal(connection: sqlite3.Connection, deadline: float) -> None:
    """Try until ``deadline``. SQLite itself does not wait here, because two processes that switch
    at the same time could wait for each other.
    """
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))
