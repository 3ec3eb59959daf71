"""The roles on PostgreSQL."""

from __future__ import annotations

from rio.contracts.membership import Registered
from rio.storage._sql import SqlMembershipStorage, SqlObjectPlacement, SqlState
from rio.storage.postgres.database import PostgresDatabase


class PostgresMembershipStorage(SqlMembershipStorage):
    """Members in PostgreSQL. Changes are heard within milliseconds.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of PostgreSQL.
    """

    def __init__(self, where: str | PostgresDatabase, /) -> None:
        self._postgres = _database_at(where)
        super().__init__(self._postgres)

    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        self._check_open()
        self._postgres._keep_lease_ready()
        return await super().register(address, metadata, manifest)

    async def wait_for_change(self, version: int, timeout: float) -> None:
        self._check_open()
        await self._postgres._wait_for_change(version, timeout)


class PostgresObjectPlacement(SqlObjectPlacement):
    """Placements in PostgreSQL.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of PostgreSQL.
    """

    def __init__(self, where: str | PostgresDatabase, /) -> None:
        self._postgres = _database_at(where)
        super().__init__(self._postgres)

    async def prepare(self) -> None:
        await super().prepare()
        self._postgres._keep_ready()


class PostgresState(SqlState):
    """States in PostgreSQL.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of PostgreSQL.
    """

    def __init__(self, where: str | PostgresDatabase, /) -> None:
        self._postgres = _database_at(where)
        super().__init__(self._postgres)

    async def prepare(self) -> None:
        await super().prepare()
        self._postgres._keep_ready()


def _database_at(where: str | PostgresDatabase) -> PostgresDatabase:
    return where if isinstance(where, PostgresDatabase) else PostgresDatabase(where)
