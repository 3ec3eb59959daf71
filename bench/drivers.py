"""One durable write through each database's own driver, without ``rio``.

The benchmarks compare the storages of ``rio`` with these.
"""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import aiosqlite
import asyncpg
from redis.asyncio import Redis

Row = tuple[str, bytes]


class Driver(ABC):
    """A connection, and a table with an id and some bytes."""

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def write(self, row: Row) -> None:
        """Write one row durably, in one statement."""

    @abstractmethod
    async def write_all(self, rows: Sequence[Row]) -> None:
        """Write all rows durably, at the cost of one commit."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class SqliteDriver(Driver):
    """aiosqlite in WAL mode, ``synchronous=FULL``."""

    _UPSERT = (
        "INSERT INTO driver (id, data) VALUES (?, ?)"
        " ON CONFLICT (id) DO UPDATE SET data = excluded.data"
    )

    def __init__(self, path: str) -> None:
        self._path = path
        self._connection: Any = None

    async def open(self) -> None:
        self._connection = await aiosqlite.connect(self._path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE IF NOT EXISTS driver"
            " (id TEXT PRIMARY KEY, data BLOB NOT NULL) WITHOUT ROWID",
        ):
            await self._connection.execute(statement)

    async def close(self) -> None:
        await self._connection.close()

    async def write(self, row: Row) -> None:
        await self._connection.execute(self._UPSERT, row)

    async def write_all(self, rows: Sequence[Row]) -> None:
        # one trip to the thread of the connection
        await self._connection._execute(self._write_all, rows)

    def _write_all(self, rows: Sequence[Row]) -> None:
        connection: sqlite3.Connection = self._connection._conn
        connection.execute("BEGIN IMMEDIATE")
        connection.executemany(self._UPSERT, rows)
        connection.execute("COMMIT")


class PostgresDriver(Driver):
    """asyncpg with prepared statements, ``synchronous_commit=on``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._one: Any = None
        self._many: Any = None

    async def open(self) -> None:
        self._connection = await asyncpg.connect(self._url)
        await self._connection.execute(
            "CREATE TABLE IF NOT EXISTS driver (id text PRIMARY KEY, data bytea NOT NULL)"
        )
        upsert = (
            "INSERT INTO driver (id, data) {} ON CONFLICT (id) DO UPDATE SET data = excluded.data"
        )
        self._one = await self._connection.prepare(upsert.format("VALUES ($1, $2)"))
        self._many = await self._connection.prepare(
            upsert.format("SELECT * FROM unnest($1::text[], $2::bytea[])")
        )

    async def close(self) -> None:
        await self._connection.close()

    async def write(self, row: Row) -> None:
        await self._one.fetch(*row)

    async def write_all(self, rows: Sequence[Row]) -> None:
        await self._many.fetch([id for id, _ in rows], [data for _, data in rows])


class RedisDriver(Driver):
    """redis.asyncio with hiredis, ``appendfsync always``."""

    def __init__(self, url: str) -> None:
        self._redis = Redis.from_url(url)

    async def open(self) -> None:
        await self._redis.ping()

    async def close(self) -> None:
        await self._redis.aclose()

    async def write(self, row: Row) -> None:
        await self._redis.set(f"driver:{row[0]}", row[1])

    async def write_all(self, rows: Sequence[Row]) -> None:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for id, data in rows:
                pipeline.set(f"driver:{id}", data)
            await pipeline.execute()
