"""The connections to a SQLite file: a server has one that writes and one that reads, a migration
has its own.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from rio.errors import ConfigurationError
from rio.storage.sqlite._identity import FileId, check_name, hold_name, release_name
from rio.storage.sqlite._schema import has_schema, prepare_schema

OLDEST = (3, 35, 0)
"""The version of SQLite that has ``RETURNING``."""

LOG_LIMIT = 8 << 20
"""Bytes that the write-ahead log keeps once all of it is in the file. While somebody reads, it can
only grow.
"""


def check_version(path: str) -> None:
    """:raises ConfigurationError: SQLite is too old."""
    if sqlite3.sqlite_version_info < OLDEST:
        raise ConfigurationError(
            f"{path}: this Python has SQLite {sqlite3.sqlite_version}, and rio needs"
            f" {'.'.join(map(str, OLDEST))} or newer: use a newer SQLite, another build of Python,"
            " or another storage"
        )


class OpenFile(NamedTuple):
    """A connection to a file whose name is held: nobody has the file open under another name."""

    connection: sqlite3.Connection
    file: FileId | None
    """``None``: SQLite keeps nothing beside the file, so its name does not matter."""

    def close(self) -> None:
        if self.file is not None:
            release_name(self.file)
        self.connection.close()


def connect_writer(path: str, busy_timeout: float, create: bool) -> OpenFile:
    """A connection that writes durably. The file is created, with its tables, if it is not there
    and ``create`` allows it.

    Afterwards SQLite does not wait for locks: the lane does that itself.
    """

    def set_up(connection: sqlite3.Connection) -> None:
        _switch_to_wal(path, connection, time.monotonic() + busy_timeout)
        _write_durably(connection)
        connection.execute(f"PRAGMA journal_size_limit = {LOG_LIMIT}")

    opened = _open_alone(path, busy_timeout, set_up, create=create)
    try:
        prepare_schema(opened.connection, path, create)
        opened.connection.execute("PRAGMA busy_timeout = 0")
    except BaseException:
        opened.close()
        raise
    return opened


def connect_reader(path: str, busy_timeout: float, _: bool) -> OpenFile:
    """A connection that cannot write."""
    return _open_alone(path, busy_timeout, _forbid_writing)


def connect_to_migrate(path: str, busy_timeout: float) -> OpenFile:
    """A connection that writes durably, and that neither creates nor checks tables."""

    def set_up(connection: sqlite3.Connection) -> None:
        _write_durably(connection)
        if has_schema(connection):  # a file of somebody else is left as it is
            _switch_to_wal(path, connection, time.monotonic() + busy_timeout)

    return _open_alone(path, busy_timeout, set_up)


def _write_durably(connection: sqlite3.Connection) -> None:
    """A commit survives a power cut; on macOS the drive itself has to be told."""
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA fullfsync = ON")
    connection.execute("PRAGMA checkpoint_fullfsync = ON")


def _forbid_writing(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA query_only = ON")


def _open_alone(
    path: str,
    busy_timeout: float,
    set_up: Callable[[sqlite3.Connection], None],
    *,
    create: bool = False,
) -> OpenFile:
    """Every connection comes from here: under another name than the others use, it would neither
    see their commits nor be kept out by their locks.

    ``set_up`` must not touch the tables.

    :raises ConfigurationError: the file is open under another name, or SQLite is too old.
    """
    check_version(path)
    check_name(path)
    connection = _open(path, busy_timeout, create)
    try:
        set_up(connection)
        connection.execute("SELECT count(*) FROM sqlite_schema")  # opens -wal and -shm
        [(mode,)] = connection.execute("PRAGMA journal_mode")
        return OpenFile(connection, hold_name(path) if mode == "wal" else None)
    except BaseException:
        connection.close()
        raise


def _open(path: str, busy_timeout: float, create: bool) -> sqlite3.Connection:
    where = f"{Path(path).as_uri()}?mode={'rwc' if create else 'rw'}"
    return sqlite3.connect(where, timeout=busy_timeout, isolation_level=None, uri=True)


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process holds the lock of the file."""
    return error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY


def _switch_to_wal(path: str, connection: sqlite3.Connection, deadline: float) -> None:
    """Try until ``deadline``. SQLite itself does not wait here, because two processes that switch
    at the same time could wait for each other.
    """
    while True:
        try:
            [(mode,)] = connection.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            if not is_busy(error) or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0.001, 0.02))
    if mode != "wal":
        raise ConfigurationError(
            f"{path}: SQLite can keep no write-ahead log there: put the file on a local disk"
        )
