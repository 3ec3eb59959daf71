"""What the errors of SQLite mean, and what to do about them."""

from __future__ import annotations

import sqlite3

from rio.errors import SchemaMismatch, StorageUnavailable
from rio.storage._rows import row_corrupt
from rio.storage.sqlite._lock import describe_writer

_WHAT_TO_DO = {
    sqlite3.SQLITE_BUSY: (
        "{writer} holds its lock for longer than busy_timeout:"
        " look for a stuck process or a long transaction"
    ),
    sqlite3.SQLITE_FULL: "the disk is full: free some space, nothing was written",
    sqlite3.SQLITE_READONLY: (
        "it is read-only: make the file and its directory writable for this user"
    ),
    sqlite3.SQLITE_IOERR: (
        "the disk or a limit on file sizes refused:"
        " look at the disk, its quota and the system's log"
    ),
    sqlite3.SQLITE_CANTOPEN: (
        "it cannot be opened: its directory must exist and be writable for this user"
    ),
    sqlite3.SQLITE_CORRUPT: (
        "it is damaged: keep a copy, then restore a backup or try SQLite's .recover"
    ),
    sqlite3.SQLITE_NOTADB: ("it is no SQLite database and was left untouched: choose another file"),
    sqlite3.SQLITE_ERROR: (
        "its tables are not those of this version of rio:"
        " choose another file, or the version that made it"
    ),
}
"""By the primary code of the error."""
_OTHER_SCHEMA = (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def explain(path: str, error: Exception) -> Exception:
    """The error for callers: errors of sqlite3 are translated, all others are returned as they
    are.
    """
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and isinstance(error, sqlite3.OperationalError):
        explained: Exception = row_corrupt(f"{path}: a row", error)  # a text that is no UTF-8
        explained.__cause__ = error
        return explained
    if code is None:
        return error
    code &= 0xFF  # the primary code
    what_to_do = _WHAT_TO_DO.get(code, "SQLite could not do it")
    if code == sqlite3.SQLITE_BUSY:
        what_to_do = what_to_do.format(writer=describe_writer(path))
    cls = SchemaMismatch if code in _OTHER_SCHEMA else StorageUnavailable
    explained = cls(f"{path}: {what_to_do} ({error})")
    explained.__cause__ = error
    return explained
