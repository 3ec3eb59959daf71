"""Storages in one SQLite file, which the processes of one machine may share.

A write returns when it would survive a power cut: the file is in WAL mode with
``synchronous=FULL``. Group commit makes that cheap: writes that wait at the same moment share one
transaction, and writes of one kind share statements.

The file must be on a local disk. Importing this module loads the driver, aiosqlite.
"""

from rio.storage.sqlite.database import SqliteDatabase, SqliteStatistics
from rio.storage.sqlite.roles import SqliteMembershipStorage, SqliteObjectPlacement, SqliteState

__all__ = [
    "SqliteDatabase",
    "SqliteMembershipStorage",
    "SqliteObjectPlacement",
    "SqliteState",
    "SqliteStatistics",
]
