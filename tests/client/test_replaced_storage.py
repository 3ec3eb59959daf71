"""A client survives that its database is restored, made anew, or replaced by another."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest
from msgspec.structs import replace
from redis import Redis

import rio
from rio._core.wire import Kind
from rio.contracts.membership import MembershipSnapshot, MembershipStorage, MemberStatus
from rio.contracts.roles import make_stand_in
from rio.errors import NotExecuted
from rio.transport.protocol import VERSION, Hello, write_hello
from tests.server.harness import Cluster, RawPeer, until
from tests.storage.conftest import postgres_server, postgres_url, redis_server, redis_url

__all__ = ["postgres_server", "postgres_url", "redis_server", "redis_url"]


class Where(rio.Message[str], readonly=True):
    pass


class Thing(rio.ServiceObject):
    @rio.handler
    def where(self, message: Where) -> str:
        return str(self.address)


# --- databases ------------------------------------------------------------------------------------


class Database(ABC):
    """A database that a test takes back in time, or empties."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    async def back_up(self) -> None: ...

    @abstractmethod
    async def restore(self) -> None: ...

    @abstractmethod
    async def make_anew(self) -> None:
        """Lose everything; a server that starts makes what it needs."""


class Sqlite(Database):
    def __init__(self, path: Path) -> None:
        super().__init__(f"sqlite:///{path}")
        self.path = path
        self.backup = path.with_suffix(".backup")

    async def back_up(self) -> None:
        with closing(sqlite3.connect(self.path)) as connection:
            connection.execute(f"VACUUM INTO '{self.backup}'")

    async def restore(self) -> None:
        """Restore the contents of the file, which stays."""
        with (
            closing(sqlite3.connect(self.backup)) as old,
            closing(sqlite3.connect(self.path)) as new,
        ):
            old.backup(new)

    async def make_anew(self) -> None:
        for name in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(f"{self.path}{name}")


class ReplacedSqlite(Sqlite):
    async def restore(self) -> None:
        """Put the copy in the place of the file."""
        await self.make_anew()
        os.replace(self.backup, self.path)


class Postgres(Database):
    async def back_up(self) -> None:
        async with self._tables() as (connection, names):
            for name in names:
                await connection.execute(f"CREATE TABLE backup_of_{name} AS TABLE {name}")

    async def restore(self) -> None:
        async with self._tables() as (connection, names):
            for name in names:
                await connection.execute(f"DELETE FROM {name}")
                await connection.execute(f"INSERT INTO {name} TABLE backup_of_{name}")

    async def make_anew(self) -> None:
        async with self._tables() as (connection, _):
            schema = await connection.fetchval("SELECT current_schema()")
            await connection.execute(f"DROP SCHEMA {schema} CASCADE; CREATE SCHEMA {schema}")

    @asynccontextmanager
    async def _tables(self) -> AsyncIterator[tuple[Any, list[str]]]:
        connection = await asyncpg.connect(self.url)
        try:
            async with connection.transaction():
                rows = await connection.fetch(
                    "SELECT tablename FROM pg_tables"
                    " WHERE schemaname = current_schema() AND tablename LIKE 'rio\\_%'"
                )
                yield connection, [row["tablename"] for row in rows]
        finally:
            await connection.close()


class Valkey(Database):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        parts = urlsplit(url)
        self.redis: Any = Redis(host=parts.hostname or "", port=parts.port or 0)
        self.pattern = f"*{parse_qs(parts.query)['namespace'][0]}*"
        self.backup: dict[bytes, bytes] = {}

    async def back_up(self) -> None:
        self.backup = {key: self.redis.dump(key) for key in self.redis.keys(self.pattern)}

    async def restore(self) -> None:
        await self.make_anew()
        for key, value in self.backup.items():
            self.redis.restore(key, 0, value)

    async def make_anew(self) -> None:
        self.redis.flushall()


@pytest.fixture(params=["sqlite", "replaced sqlite", "postgres", "redis"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    match request.param:
        case "sqlite":
            return Sqlite(tmp_path / "rio.db")
        case "replaced sqlite":
            return ReplacedSqlite(tmp_path / "rio.db")
        case "postgres":
            return Postgres(request.getfixturevalue("postgres_url"))
        case _:
            return Valkey(request.getfixturevalue("redis_url"))


# --- while no server runs -------------------------------------------------------------------------


@asynccontextmanager
async def a_server(database: Database) -> AsyncIterator[rio.Server]:
    async with rio.Server(rio.Registry(Thing), storage=database.url, cluster="local") as server:
        yield server


async def outlive(database: Database, loss: Callable[[], Awaitable[None]]) -> rio.Client:
    """Have a client follow a cluster that stops, loses something, and starts again."""
    async with a_server(database) as server:
        client = rio.Client(database.url)
        await client.start()
        assert await client.send(Thing, "t", Where()) == server.address
        await database.back_up()
    for _ in range(2):  # what the database forgets
        async with a_server(database) as server:
            assert await client.send(Thing, "t", Where()) == server.address
    await loss()
    return client


@pytest.mark.servers
async def test_a_client_finds_the_servers_of_a_database_that_was_restored(
    database: Database,
) -> None:
    client = await outlive(database, database.restore)
    cluster_id = client.members.cluster_id
    async with a_server(database) as server:
        assert await client.send(Thing, "t", Where(), timeout=10.0) == server.address
        assert client.members.cluster_id == cluster_id
        await client.close()


@pytest.mark.servers
async def test_a_client_finds_the_servers_of_a_database_that_was_made_anew(
    database: Database,
) -> None:
    client = await outlive(database, database.make_anew)
    cluster_id = client.members.cluster_id
    async with a_server(database) as server:
        assert await client.send(Thing, "t", Where(), timeout=10.0) == server.address
        assert client.members.cluster_id != cluster_id
        await client.close()


# --- what the storage says ------------------------------------------------------------------------


class Shown:
    """The membership that a client reads: that of a storage, or whatever a test says."""

    def __init__(self, membership: MembershipStorage) -> None:
        self.change: Callable[[MembershipSnapshot], MembershipSnapshot] = lambda shown: shown
        self.membership = membership
        self.storage: MembershipStorage = make_stand_in(MembershipStorage, self._call)

    async def _call(self, method: str, *args: Any, **keywords: Any) -> Any:
        answer = await getattr(self.membership, method)(*args, **keywords)
        return self.change(answer) if method == "snapshot" else answer


@asynccontextmanager
async def a_client_that_is_shown(shown: Shown) -> AsyncIterator[rio.Client]:
    async with rio.Client(shown.storage, refresh_interval=0.02) as client:
        yield client


async def test_a_membership_with_a_lower_version_is_what_counts_from_then_on(
    cluster: Cluster,
) -> None:
    one, two = await cluster.nodes(2, Thing)
    shown = Shown(cluster.storage.membership)
    async with a_client_that_is_shown(shown) as client:
        await client.send(Thing, "t", Where())
        shown.change = lambda now: replace(
            now,
            version=1,
            members=tuple(member for member in now.members if member.address == two.address),
        )
        await until(lambda: client.members.version == 1)
        await one.stop()
        for number in range(10):
            assert await client.send(Thing, f"new{number}", Where()) == two.address


async def test_the_members_of_another_cluster_replace_all_that_was_known(
    cluster: Cluster,
) -> None:
    old = await cluster.server(Thing)
    shown = Shown(cluster.storage.membership)
    async with a_client_that_is_shown(shown) as client, rio.open_storage("memory://") as storage:
        assert await client.send(Thing, "t", Where()) == old.address
        async with rio.Server(rio.Registry(Thing), storage=storage, cluster="local") as new:
            shown.membership = storage.membership
            await until(lambda: client.members.find(new.generation))
            # The old server still runs, and the client was connected to it.
            assert await client.send(Thing, "t", Where()) == new.address
            assert client._router.pool.peer(old.address).connection is None


async def test_calls_under_way_to_the_servers_of_another_cluster_may_have_run(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Thing)
    shown = Shown(cluster.storage.membership)
    async with a_client_that_is_shown(shown) as client:
        await client.send(Thing, "t", Where())
        connection = client._router.pool.peer(server.address).connection
        assert connection is not None
        shown.change = lambda now: replace(now, cluster_id="another")
        await until(lambda: client.members.cluster_id == "another")
        assert not connection.usable
        shown.change = lambda now: now
        assert await client.send(Thing, "t", Where()) == server.address


# --- whom a client talks to -----------------------------------------------------------------------


async def test_a_server_of_another_cluster_at_a_known_address_runs_nothing(
    cluster: Cluster,
) -> None:
    async with (
        rio.open_storage("memory://") as storage,
        rio.Server(rio.Registry(Thing), storage=storage, cluster="local") as other,
    ):
        # What a server leaves that was killed, and at whose address the other one listens now.
        async with cluster.storage.membership as membership:
            killed = (await membership.register(other.address)).generation
            await membership.set_status(killed, MemberStatus.JOINING, MemberStatus.ACTIVE)
            async with rio.Client(cluster.storage, timeout=0.5) as client:
                with pytest.raises(NotExecuted, match=r"another|belongs to"):
                    await client.send(Thing, "t", Where())
        assert other.statistics().calls == 0


async def test_another_member_at_a_known_address_is_asked_after_the_members_were_read_again(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Thing)
    shown = Shown(cluster.storage.membership)
    old = replace(server.members.find(server.generation), generation=1)
    shown.change = lambda now: replace(now, version=1, members=(old,))
    async with a_client_that_is_shown(shown) as client:
        call = asyncio.ensure_future(client.send(Thing, "t", Where()))
        await until(lambda: client._router.pool.peer(server.address).failures)
        assert server.statistics().calls == 0
        shown.change = lambda now: now
        assert await call == server.address


@pytest.mark.parametrize("role", ["client", "node"])
async def test_a_server_refuses_who_belongs_to_another_cluster(cluster: Cluster, role: str) -> None:
    server = await cluster.server(Thing)
    async with await RawPeer.connect(server, greet=False) as peer:
        peer.send(write_hello(Hello(VERSION, role, cluster="another")))
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 0, "wrong_server")
        assert "the peer belongs to another" in text
        assert await peer.closed()
