"""The roles on SQLite."""

from __future__ import annotations

import os

from rio.storage._sql import SqlMembershipStorage, SqlObjectPlacement, SqlState
from rio.storage.sqlite.database import SqliteDatabase


class SqliteMembershipStorage(SqlMembershipStorage):
    """Members in a SQLite file.

    ``where``: the path of the file, or a database that several roles share.

    :raises ConfigurationError: the path names no file.
    """

    def __init__(self, where: str | os.PathLike[str] | SqliteDatabase, /) -> None:
        super().__init__(_database_at(where))


class SqliteObjectPlacement(SqlObjectPlacement):
    """Placements in a SQLite file.

    ``where``: the path of the file, or a database that several roles share.

    :raises ConfigurationError: the path names no file.
    """

    def __init__(self, where: str | os.PathLike[str] | SqliteDatabase, /) -> None:
        super().__init__(_database_at(where))


class SqliteState(SqlState):
    """States in a SQLite file.

    ``where``: the path of the file, or a database that several roles share.

    :raises ConfigurationError: the path names no file.
    """

    def __init__(self, where: str | os.PathLike[str] | SqliteDatabase, /) -> None:
        super().__init__(_database_at(where))


def _database_at(where: str | os.PathLike[str] | SqliteDatabase) -> SqliteDatabase:
    return where if isinstance(where, SqliteDatabase) else SqliteDatabase(where)
