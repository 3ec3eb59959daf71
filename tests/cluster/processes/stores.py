"""The storages that clusters of processes run on, and their differences."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import asyncpg

from tests.servers import PostgresServer, RedisServer, Server

STORAGES = ("sqlite", "postgres", "redis")
_numbers = count(1)


@dataclass(frozen=True)
class Store:
    """An empty place in a storage."""

    url: str
    server: Server | None = None
    """The server; ``None`` for a file."""

    @property
    def name(self) -> str:
        return self.url.partition(":")[0]

    @property
    def database(self) -> Path:
        """The file of SQLite."""
        assert self.server is None, f"{self.name} has no file"
        return Path(self.url.removeprefix("sqlite:///"))

    async def is_free(self) -> bool:
        """Whether nothing holds a lock for longer than a transaction takes.

        Servers free what a frozen client holds by themselves.
        """
        return self.server is not None or await asyncio.to_thread(_can_write, self.database)


def _can_write(database: Path) -> bool:
    with closing(sqlite3.connect(database, timeout=0.5, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return False
    return True


def file_in(directory: Path) -> Store:
    return Store(f"sqlite:///{directory / 'rio.db'}")


async def place_on(server: Server) -> Store:
    """Make a schema or a namespace that nothing else uses."""
    name = f"cluster_{next(_numbers)}"
    if not isinstance(server, PostgresServer):
        return Store(f"{server.url}?namespace={name}", server)
    connection = await asyncpg.connect(server.url)
    await connection.execute(f"CREATE SCHEMA {name}")
    await connection.close()
    return Store(f"{server.url}?search_path={name}", server)


@contextmanager
def serving(name: str) -> Iterator[Server | None]:
    """Start a server for the storage called ``name``; ``None`` where that is a file."""
    if name == "sqlite":
        yield None
    else:
        with {"postgres": PostgresServer, "redis": RedisServer}[name]() as server:
            yield server
