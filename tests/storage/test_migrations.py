"""Databases are migrated forward, by command, while no server runs; and by nothing else.

``python -m tests.storage.test_migrations`` writes down the tables of schema 1. From the first
release on they must not change any more: add a migration instead.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rio.cli.program import main
from rio.contracts.membership import MemberStatus
from rio.errors import SchemaMismatch, StorageUnavailable
from rio.identity import ObjectId
from rio.storage import migrate, open_storage, read_schemas
from rio.storage._migrations import Migration
from rio.storage.postgres import _schema as postgres_schema
from rio.storage.redis import _schema as redis_schema
from rio.storage.sqlite import _schema as sqlite_schema

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

    def break_migration(self, monkeypatch: pytest.MonkeyPatch, *steps: Any) -> None:
        """Go on with code of schema 2 that does the migration and then these steps."""
        migration = self._migration._replace(steps=self._migration.steps + steps)
        monkeypatch.setattr(self._module, "MIGRATIONS", (migration,))

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
