"""Databases are migrated forward, by command, while no server runs; and by nothing else.

``python -m tests.storage.test_migrations`` writes down the tables of schema 1. From the first
release on they must not change any more: add a migration instead.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from rio.cli.program import main
from rio.contracts.membership import MemberStatus
from rio.errors import SchemaMismatch, StorageUnavailable
from rio.identity import ObjectId
from rio.storage import migrate, open_storage, read_schemas
from rio.storage._migrations import Migration
from rio.storage.postgres import _schema as postgres_schema
from rio.storage.redis import RedisDatabase
from rio.storage.redis import _schema as redis_schema
from rio.storage.redis._lane import RedisLane
from rio.storage.redis._schema import key_of
from rio.storage.sqlite import _schema as sqlite_schema
from tests.servers import Server

ADA = ObjectId("Account", "ada")
SCHEMAS = Path(__file__).parent / "schemas"
TABLES = {
    "sqlite-1.sql": ";\n".join(sqlite_schema._SCHEMA_1) + ";\n",
    "postgres-1.sql": postgres_schema._SCHEMA_1,
}
INVENTED = "count the placements"


class Database:
    """A database with a placement, which code of schema 1 made; and code of schema 2."""

    def __init__(self, url: str, module: Any, migration: Migration) -> None:
        self.url = url
        self._module = module
        self._migration = migration

    def upgrade(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Go on with the code of schema 2."""
        monkeypatch.setattr(self._module, "MIGRATIONS", (self._migration,))

    def downgrade(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Go back to the code of schema 1."""
        monkeypatch.setattr(self._module, "MIGRATIONS", ())

    def break_migration(self, monkeypatch: pytest.MonkeyPatch, *steps: Any) -> None:
        """Go on with code of schema 2 that does the migration and then these steps."""
        migration = self._migration._replace(steps=self._migration.steps + steps)
        monkeypatch.setattr(self._module, "MIGRATIONS", (migration,))

    def slow_down(self, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Let a migration take a second. Returns what is set when it has begun."""
        begun, apply = threading.Event(), self._module._apply

        def apply_after_notice(*args: Any) -> Any:
            begun.set()
            return apply(*args)

        monkeypatch.setattr(self._module, "_apply", apply_after_notice)
        steps = (*SLOW_STEPS[self._module], *self._migration.steps)
        self._migration = self._migration._replace(steps=steps)
        return begun

    async def found(self) -> int:
        """The schema of the tables."""
        [status] = await read_schemas(open_storage(self.url))
        return status.found

    async def fill(self, status: MemberStatus) -> int:
        """Register a member that gets so far, and claim an object for it. Returns the token."""
        async with open_storage(self.url) as storage:
            generation = (await storage.membership.register("h:1")).generation
            if status is not MemberStatus.JOINING:
                await storage.membership.set_status(generation, MemberStatus.JOINING, status)
            return (await storage.placement.claim(ADA, generation)).token

    async def token(self) -> int:
        async with open_storage(self.url) as storage:
            placement = await storage.placement.lookup(ADA)
            assert placement is not None
            return placement.token


async def count_in_redis(ask: Callable[..., Awaitable[Any]], namespace: str) -> None:
    await ask(b"SET", f"{namespace}:invented".encode(), b"1")


async def wait_in_redis(*_: object) -> None:
    await asyncio.sleep(1)


WAIT_IN_SQLITE = """
    CREATE TABLE rio_slow AS WITH RECURSIVE numbers(n) AS
    (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 3000000) SELECT max(n) FROM numbers
"""
SLOW_STEPS: dict[Any, tuple[Any, ...]] = {
    sqlite_schema: (WAIT_IN_SQLITE,),
    postgres_schema: ("SELECT pg_sleep(1)",),
    redis_schema: (wait_in_redis,),
}
COUNT_IN_SQL = "CREATE TABLE rio_invented AS SELECT count(*) AS placements FROM rio_placement"
MIGRATIONS = {
    "sqlite": (sqlite_schema, Migration(INVENTED, (COUNT_IN_SQL,))),
    "postgres": (postgres_schema, Migration(INVENTED, (COUNT_IN_SQL,))),
    "redis": (redis_schema, Migration(INVENTED, (count_in_redis,))),
}


@pytest.fixture(params=MIGRATIONS)
def database(request: pytest.FixtureRequest) -> Database:
    return Database(request.getfixturevalue(f"{request.param}_url"), *MIGRATIONS[request.param])


async def test_tables_of_an_older_schema_are_refused_and_left_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await database.fill(MemberStatus.LEFT)
    with monkeypatch.context() as newer:
        database.upgrade(newer)
        with pytest.raises(SchemaMismatch, match=r"schema 1, older than schema 2.*rio migrate"):
            await open_storage(database.url).prepare()
    assert await database.found() == 1
    assert await database.token() == token


async def test_tables_of_a_newer_schema_are_refused_and_left_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        database.upgrade(newer)
        token = await database.fill(MemberStatus.LEFT)
    for old in (open_storage(database.url).prepare(), migrate(open_storage(database.url))):
        with pytest.raises(SchemaMismatch, match=r"schema 2, newer than schema 1.*upgrade rio"):
            await old
    database.upgrade(monkeypatch)
    assert await database.token() == token


async def test_a_migration_keeps_the_rows_and_lets_the_newer_code_in(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await database.fill(MemberStatus.LEFT)
    database.upgrade(monkeypatch)
    await migrate(open_storage(database.url))
    assert await database.found() == 2
    assert await database.token() == token


async def test_a_migration_that_nothing_needs_changes_nothing_even_under_servers(
    database: Database,
) -> None:
    token = await database.fill(MemberStatus.ACTIVE)
    await migrate(open_storage(database.url))
    assert await database.token() == token


@pytest.mark.parametrize(
    "status", [status for status in MemberStatus if not status.terminal], ids=lambda each: each.name
)
async def test_nothing_is_migrated_under_a_server_that_has_not_ended(
    database: Database, monkeypatch: pytest.MonkeyPatch, status: MemberStatus
) -> None:
    await database.fill(status)
    database.upgrade(monkeypatch)
    with pytest.raises(SchemaMismatch, match=r"h:1 has not ended.*stop all servers"):
        await migrate(open_storage(database.url))
    assert await database.found() == 1


async def test_an_old_server_that_runs_does_not_come_back_after_a_migration(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.fill(MemberStatus.LEFT)
    async with open_storage(database.url) as storage:
        with monkeypatch.context() as newer:
            database.upgrade(newer)
            await migrate(open_storage(database.url))
        with pytest.raises(SchemaMismatch, match=r"schema 2, newer than schema 1.*upgrade rio"):
            await storage.membership.register("h:2")
        members = (await storage.membership.snapshot()).members
        assert [member.address for member in members] == ["h:1"]


async def test_many_that_migrate_at_once_migrate_once(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.fill(MemberStatus.LEFT)
    database.upgrade(monkeypatch)
    ends = await asyncio.gather(
        *(migrate(open_storage(database.url)) for _ in range(5)), return_exceptions=True
    )
    assert None in ends
    assert all(end is None or "another process migrates it" in str(end) for end in ends)
    assert await database.found() == 2


async def test_a_migration_that_was_cut_off_is_finished_by_the_next(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await database.fill(MemberStatus.LEFT)

    async def fail(*_: object) -> None:
        raise StorageUnavailable("the server is gone")

    with monkeypatch.context() as broken:
        database.break_migration(broken, fail if "redis" in database.url else "no SQL")
        with pytest.raises((SchemaMismatch, StorageUnavailable)):
            await migrate(open_storage(database.url))
        assert await database.found() == 1
    database.upgrade(monkeypatch)
    await migrate(open_storage(database.url))
    assert await database.token() == token


async def test_a_server_that_registers_during_a_migration_waits_or_is_refused(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An old server, which had prepared before the migration began."""
    await database.fill(MemberStatus.LEFT)
    async with open_storage(database.url) as old_server:
        begun = database.slow_down(monkeypatch)
        database.upgrade(monkeypatch)
        migrating = asyncio.create_task(migrate(open_storage(database.url)))
        await asyncio.to_thread(begun.wait)
        with monkeypatch.context() as old:
            database.downgrade(old)
            registering = asyncio.create_task(old_server.membership.register("h:2"))
            await asyncio.sleep(0)
        with pytest.raises(SchemaMismatch, match=r"has not finished|newer than schema 1"):
            await registering
        await migrating
        members = (await old_server.membership.snapshot()).members
        assert [member.address for member in members] == ["h:1"]
    assert await database.found() == 2


# --- a migration of Redis, which is not one transaction -------------------------------------------


class Killed(Exception):
    """What ends a migration as if its process had been killed."""


async def rename_in_redis(ask: Callable[..., Awaitable[Any]], namespace: str) -> None:
    old, new = (key_of(namespace, name) for name in ("old", "new"))
    if await ask(b"EXISTS", old):
        await ask(b"RENAME", old, new)


async def double_in_redis(ask: Callable[..., Awaitable[Any]], namespace: str) -> None:
    key = key_of(namespace, "new")
    await ask(b"SET", key, b"doubled")
    await ask(b"EXPIRE", key, b"1000")


TO_SCHEMA_3 = (
    Migration("rename a key", (rename_in_redis,)),
    Migration("double it", (count_in_redis, double_in_redis)),
)


class RedisKeys:
    """A namespace of schema 1, and another client that looks at it."""

    def __init__(self, url: str, redis: Any) -> None:
        self.url = url
        self.namespace = url.partition("namespace=")[2]
        self.redis = redis

    def key(self, name: str) -> str:
        return key_of(self.namespace, name).decode()

    async def read_schema(self) -> tuple[int, int]:
        """The version, and the one that a migration leads to; 0 if there is none."""
        row = await self.redis.hmget(self.key("database:schema"), "version", "migrating")
        return int(row[0] or 0), int(row[1] or 0)

    async def is_locked(self) -> bool:
        return bool(await self.redis.exists(self.key("database:migrating")))

    async def begin_anew(self) -> None:
        """Leave nothing but a key that a migration renames."""
        async for key in self.redis.scan_iter(self.key("*")):
            await self.redis.delete(key)
        await self.redis.set(self.key("old"), "1")

    async def unlock(self) -> None:
        """As time does."""
        await self.redis.delete(self.key("database:migrating"))


@pytest.fixture
async def keys(redis_server: Server, redis_url: str) -> AsyncIterator[RedisKeys]:
    async with Redis.from_url(redis_server.url) as redis:
        keys = RedisKeys(redis_url, redis)
        await keys.begin_anew()
        yield keys


def upgrade(
    monkeypatch: pytest.MonkeyPatch, migrations: tuple[Migration, ...] = TO_SCHEMA_3
) -> None:
    monkeypatch.setattr(redis_schema, "MIGRATIONS", migrations)


def kill_after(monkeypatch: pytest.MonkeyPatch, commands: int) -> None:
    """Let a process send so many commands, and no more."""
    ask, sent = RedisLane.ask, count()

    async def ask_or_die(lane: RedisLane, *words: bytes) -> Any:
        if next(sent) >= commands:
            raise Killed
        return await ask(lane, *words)

    monkeypatch.setattr(RedisLane, "ask", ask_or_die)


async def test_a_migration_goes_on_wherever_it_was_cut_off(
    keys: RedisKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    was_cut_off, states = True, set()
    for commands in count(1):
        await keys.begin_anew()
        async with open_storage(keys.url) as old_server:
            with monkeypatch.context() as process:
                upgrade(process)
                kill_after(process, commands)
                try:
                    await migrate(open_storage(keys.url))
                    was_cut_off = False
                except Killed:
                    pass
            version, unfinished = await keys.read_schema()
            states.add((version, unfinished))
            if (version, unfinished) != (1, 0):
                for server in (old_server.membership.register("h:1"), prepare(keys.url)):
                    with pytest.raises(SchemaMismatch):
                        await server
        await keys.unlock()
        with monkeypatch.context() as process:
            upgrade(process)
            if unfinished:
                with pytest.raises(SchemaMismatch, match=f"schema {unfinished} has not finished"):
                    await prepare(keys.url)
            [status] = await read_schemas(open_storage(keys.url))
            assert status.outdated == (version != 3)
            await migrate(open_storage(keys.url))
            assert await keys.read_schema() == (3, 0)
            assert await keys.redis.get(keys.key("new")) == b"doubled"
            assert not await keys.redis.exists(keys.key("old"))
            assert not await keys.is_locked()
            async with open_storage(keys.url) as new_server:
                await new_server.membership.register("h:1")
        if not was_cut_off:
            break
    assert states == {(1, 0), (1, 2), (2, 3), (3, 0)}


async def test_old_code_does_not_touch_keys_whose_migration_was_cut_off(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(redis_url, *MIGRATIONS["redis"])
    await database.fill(MemberStatus.LEFT)

    async def fail(*_: object) -> None:
        raise StorageUnavailable("the server is gone")

    with monkeypatch.context() as broken:
        database.break_migration(broken, fail)
        with pytest.raises(StorageUnavailable):
            await migrate(open_storage(redis_url))
    with pytest.raises(SchemaMismatch, match="schema 2 has not finished"):
        await open_storage(redis_url).prepare()


async def prepare(url: str) -> None:
    async with open_storage(url):
        pass


async def test_a_migration_that_only_a_newer_rio_can_finish_is_left_to_it(
    keys: RedisKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(keys.url)
    with monkeypatch.context() as process:
        upgrade(process)
        kill_after(process, 3)
        with pytest.raises(Killed):
            await migrate(open_storage(keys.url))
    await keys.unlock()
    with pytest.raises(SchemaMismatch, match=r"schema 2, newer than schema 1.*upgrade rio"):
        await migrate(open_storage(keys.url))
    assert await keys.read_schema() == (1, 2)


async def test_a_migration_that_is_refused_leaves_nothing_behind(
    keys: RedisKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_storage(keys.url) as old_server:
        await old_server.membership.register("h:1")
        with monkeypatch.context() as process:
            upgrade(process)
            with pytest.raises(SchemaMismatch, match="h:1 has not ended"):
                await RedisDatabase.from_url(keys.url)._migrate()  # without a look before it
        assert await keys.read_schema() == (1, 0)
        assert not await keys.is_locked()
        await old_server.membership.register("h:2")


async def test_a_migration_that_has_lost_its_lock_stops_and_leaves_the_lock_of_the_other(
    keys: RedisKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = keys.key("database:migrating")

    async def be_slow(ask: Callable[..., Awaitable[Any]], namespace: str) -> None:
        await keys.redis.set(lock, "another process", ex=1000)
        await asyncio.sleep(0.2)
        await ask(b"SET", key_of(namespace, "too_late"), b"1")

    await prepare(keys.url)
    upgrade(monkeypatch, (Migration("be slow", (be_slow,)),))
    for seconds in (60, 1):  # the end of the step notices it, or the next command does
        monkeypatch.setattr(redis_schema, "LOCK_SECONDS", seconds)
        await keys.redis.delete(lock, keys.key("too_late"))
        with pytest.raises(SchemaMismatch, match="lost its lock"):
            await migrate(open_storage(keys.url))
        assert await keys.redis.get(lock) == b"another process"
        assert await keys.redis.ttl(lock) > 900
        assert await keys.read_schema() == (1, 2)
        assert await keys.redis.exists(keys.key("too_late")) == (seconds == 60)


async def test_a_step_that_takes_long_keeps_its_lock(
    keys: RedisKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def take_long(ask: Callable[..., Awaitable[Any]], _: str) -> None:
        for _ in range(15):
            await asyncio.sleep(0.1)
            await ask(b"PING")

    await prepare(keys.url)
    upgrade(monkeypatch, (Migration("take long", (take_long,)),))
    monkeypatch.setattr(redis_schema, "LOCK_SECONDS", 1)
    migrating = asyncio.create_task(migrate(open_storage(keys.url)))
    await asyncio.sleep(1.2)
    with pytest.raises(SchemaMismatch, match=r"another process migrates it.*within 1 s"):
        await migrate(open_storage(keys.url))
    await migrating
    assert await keys.read_schema() == (2, 0)


async def test_a_new_database_has_the_newest_tables(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database.upgrade(monkeypatch)
    await database.fill(MemberStatus.LEFT)
    assert await database.found() == 2


async def test_where_there_is_no_database_none_is_made(tmp_path: Path) -> None:
    with pytest.raises(StorageUnavailable, match="no such file"):
        await migrate(open_storage(f"sqlite:///{tmp_path / 'typo.db'}"))
    assert os.listdir(tmp_path) == []


# --- the command ----------------------------------------------------------------------------------


def test_the_command_says_what_it_would_do_and_does_it(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(database.fill(MemberStatus.LEFT))
    database.upgrade(monkeypatch)
    command = ["migrate", "--storage", database.url]
    assert main([*command, "--check"]) == 1
    out = capsys.readouterr().out
    assert "schema 1, this rio needs 2" in out
    assert f"to schema 2: {INVENTED}" in out
    assert asyncio.run(database.found()) == 1
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("migrated\n")
    assert main([*command, "--check"]) == 0
    assert "schema 2, this rio needs 2" in capsys.readouterr().out


def test_the_command_names_the_servers_that_must_stop(
    database: Database, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asyncio.run(database.fill(MemberStatus.ACTIVE))
    database.upgrade(monkeypatch)
    assert main(["migrate", "--storage", database.url, "--check"]) == 1
    assert "servers that must be stopped first: h:1" in capsys.readouterr().out
    assert main(["migrate", "--storage", database.url]) == 1
    assert "h:1 has not ended" in capsys.readouterr().err


# --- the tables of each schema that was released --------------------------------------------------


@pytest.mark.parametrize("name", TABLES)
def test_the_tables_of_a_schema_are_as_they_were_written_down(name: str) -> None:
    assert TABLES[name] == (SCHEMAS / name).read_text(), (
        "change schema 1 only before the first release (python -m tests.storage.test_migrations"
        " writes it down); then add a migration"
    )


@pytest.fixture
def old_file(tmp_path: Path) -> Path:
    path = tmp_path / "old.db"
    connection = sqlite3.connect(path)
    connection.executescript((SCHEMAS / "sqlite-1.sql").read_text())
    connection.close()
    return path


async def test_a_database_of_the_tables_that_were_written_down_is_migrated(
    old_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{old_file}", *MIGRATIONS["sqlite"])
    token = await database.fill(MemberStatus.LEFT)
    database.upgrade(monkeypatch)
    await migrate(open_storage(database.url))
    assert await database.token() == token


if __name__ == "__main__":
    for name, text in TABLES.items():
        (SCHEMAS / name).write_text(text)
