"""A SQLite file that is deleted, replaced, or open under another name takes no more commits."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from rio.errors import ConfigurationError, SchemaMismatch, StorageUnavailable
from rio.identity import ObjectId
from rio.storage import Storage, migrate, open_storage, read_schemas
from rio.storage.sqlite import (
    SqliteDatabase,
    SqliteMembershipStorage,
    SqliteObjectPlacement,
    _connection,
)
from tests.storage.steps import ADA

BOB = ObjectId("Account", "bob")

OPEN = """
import asyncio, sys
from rio.storage import open_storage
async def main():
    async with open_storage("sqlite:///" + sys.argv[1]):
        print("open", flush=True)
asyncio.run(main())
"""

MIGRATE = """
import asyncio, sys
from rio.storage import migrate, open_storage
asyncio.run(migrate(open_storage("sqlite:///" + sys.argv[1])))
print("migrated")
"""

TAKE_THE_LOCK = """
import sqlite3, sys
sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None).execute("BEGIN IMMEDIATE")
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "rio.db"


def run(script: str, path: Path) -> str:
    """What another process prints that does this with the file."""
    ended = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=30
    )
    return ended.stdout + ended.stderr


# --- deleted or replaced --------------------------------------------------------------------------


async def test_nothing_is_acknowledged_into_a_file_that_was_deleted(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        await storage.placement.claim(ADA, 1)
        remove(path)
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await storage.placement.claim(BOB, 1)
            with pytest.raises(StorageUnavailable):
                await storage.placement.lookup(ADA)
        assert path.name not in os.listdir(path.parent)
    assert "was deleted or replaced while it was open" in caplog.text


async def test_a_file_that_was_put_in_its_place_is_what_is_used_then(
    path: Path, tmp_path: Path
) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        token = (await storage.placement.claim(ADA, 1)).token
        execute(path, f"VACUUM INTO '{tmp_path}/backup.db'")
        await storage.placement.claim(BOB, 1)
        before = storage.placement.history
        os.replace(tmp_path / "backup.db", path)
        remove(path, "-wal", "-shm")
        with pytest.raises(StorageUnavailable, match="was deleted or replaced"):
            await storage.placement.claim(BOB, 1)
        with pytest.raises(StorageUnavailable, match="was deleted or replaced"):
            await storage.placement.lookup(BOB)
        placement = await storage.placement.claim(ADA, 2)
        assert (placement.generation, placement.token) == (1, token)
        assert await storage.placement.lookup(BOB) is None
        assert storage.placement.history != before


async def test_an_empty_file_in_its_place_does_not_become_another_cluster(path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        await storage.placement.claim(ADA, 1)
        remove(path)
        execute(path, "PRAGMA user_version = 1")
        with pytest.raises(StorageUnavailable, match="was deleted or replaced"):
            await storage.placement.claim(ADA, 1)
        with pytest.raises(SchemaMismatch):
            await storage.placement.claim(ADA, 1)
        assert execute(path, "SELECT name FROM sqlite_schema") == []


def remove(path: Path, *ends: str) -> None:
    for end in ends or ("", "-wal", "-shm"):
        path.with_name(path.name + end).unlink(missing_ok=True)


def bytes_of(path: Path) -> bytes:
    return path.read_bytes()


def execute(path: Path, statement: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


# --- under two names ------------------------------------------------------------------------------


@pytest.fixture
def other_name(path: Path, tmp_path: Path) -> Path:
    """A hard link to the file, which is made first."""
    assert run(OPEN, path) == "open\n"
    os.link(path, tmp_path / "other.db")
    return tmp_path / "other.db"


async def test_a_file_that_is_open_under_another_name_is_refused(
    path: Path, other_name: Path
) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        await storage.placement.claim(ADA, 1)
        assert "this file is open under another name" in run(OPEN, other_name)
        with pytest.raises(ConfigurationError, match=r"other\.db.*mount its directory"):
            await SqliteObjectPlacement(other_name).prepare()
        assert run(OPEN, path) == "open\n"
        await storage.placement.claim(BOB, 1)


async def test_a_file_that_is_open_under_another_name_is_not_migrated_and_not_looked_at(
    path: Path, other_name: Path
) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        await storage.membership.register("h:1")
        assert "this file is open under another name" in run(MIGRATE, other_name)
        for tool in (migrate, read_schemas):
            with pytest.raises(ConfigurationError, match=r"other\.db.*mount its directory"):
                await tool(open_storage(f"sqlite:///{other_name}"))
        assert run(MIGRATE, path) == "migrated\n"
    assert run(MIGRATE, other_name) == "migrated\n"


async def test_a_name_that_is_refused_has_written_nothing(path: Path, tmp_path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:  # the tables are in -wal alone
        os.link(path, tmp_path / "other.db")
        before = bytes_of(path)
        assert "this file is open under another name" in run(OPEN, tmp_path / "other.db")
        assert bytes_of(path) == before
        await storage.placement.claim(ADA, 1)
    async with open_storage(f"sqlite:///{path}") as storage:
        assert await storage.placement.lookup(ADA) is not None


async def test_a_file_without_tables_of_rio_is_not_changed_by_a_migration(path: Path) -> None:
    execute(path, "CREATE TABLE theirs (id INTEGER)")
    before = bytes_of(path)
    await migrate(open_storage(f"sqlite:///{path}"))
    assert bytes_of(path) == before


async def test_a_backup_is_migrated_though_it_keeps_no_log_beside_it(
    path: Path, tmp_path: Path
) -> None:
    async with open_storage(f"sqlite:///{path}"):
        execute(path, f"VACUUM INTO '{tmp_path}/backup.db'")
    backup = open_storage(f"sqlite:///{tmp_path}/backup.db")
    before = bytes_of(tmp_path / "backup.db")
    assert [status.found for status in await read_schemas(backup)] == [1]
    assert bytes_of(tmp_path / "backup.db") == before
    await migrate(backup)


async def test_an_sqlite_that_is_too_old_is_refused_by_every_tool(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(OPEN, path) == "open\n"
    monkeypatch.setattr(_connection, "OLDEST", (99, 0, 0))
    for tool in (migrate, read_schemas, Storage.prepare):
        with pytest.raises(ConfigurationError, match=r"needs 99\.0\.0 or newer"):
            await tool(open_storage(f"sqlite:///{path}"))


async def test_a_file_may_have_another_name_that_nobody_uses_at_the_same_time(
    path: Path, other_name: Path
) -> None:
    for name in (path, other_name, path):
        async with open_storage(f"sqlite:///{name}") as storage:
            await storage.placement.claim(ADA, 1)
            assert run(OPEN, name) == "open\n"


async def test_a_symbolic_link_is_the_same_name(path: Path, tmp_path: Path) -> None:
    async with open_storage(f"sqlite:///{path}") as storage:
        os.symlink(path, tmp_path / "link.db")
        assert run(OPEN, tmp_path / "link.db") == "open\n"
        async with open_storage(f"sqlite:///{tmp_path}/link.db") as linked:
            await linked.placement.claim(ADA, 1)
        assert await storage.placement.lookup(ADA) is not None


async def test_closing_a_database_leaves_the_locks_of_other_connections_alone(path: Path) -> None:
    database = SqliteDatabase(path)
    async with SqliteMembershipStorage(database):
        other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    async with SqliteMembershipStorage(SqliteDatabase(path)):
        pass
    assert "database is locked" in run(TAKE_THE_LOCK, path)
    other.close()
    assert run(TAKE_THE_LOCK, path) == ""
