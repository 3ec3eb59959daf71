"""Storages in PostgreSQL.

Operations that wait at the same moment go to the server as one statement: callers of the frequent
statements (claim, look up, release, load and fence, save) are gathered into arrays, and each gets
its own outcome. The lease has a connection of its own, so that no queue can make it run out.
Changes of the membership are heard by ``LISTEN`` within milliseconds.

Every step has a deadline, on the server and here, and nothing waits for a connection whose server
is gone: it is dropped and replaced. Connect to PostgreSQL itself, or to a pooler in session mode:
settings, prepared statements and ``LISTEN`` belong to a session.

Importing this module loads the driver, asyncpg.
"""

from rio.storage.postgres.database import PostgresDatabase, PostgresStatistics
from rio.storage.postgres.roles import (
    PostgresMembershipStorage,
    PostgresObjectPlacement,
    PostgresState,
)

__all__ = [
    "PostgresDatabase",
    "PostgresMembershipStorage",
    "PostgresObjectPlacement",
    "PostgresState",
    "PostgresStatistics",
]
