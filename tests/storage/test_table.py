"""States in the columns of a table of one's own, on SQLite and PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import rio
from rio.errors import (
    ConfigurationError,
    SchemaMismatch,
    StateCorrupt,
    StateNotFound,
    StorageClosed,
    Unsupported,
)
from rio.storage.sqlite import SqliteDatabase, SqliteState
from rio.storage.table import SqlTable
from rio.testing.conformance import TypedStateStorageTests

TABLE = (
    "CREATE TABLE purse (id TEXT PRIMARY KEY, rio_token BIGINT NOT NULL,"
    " rio_version BIGINT NOT NULL, owner TEXT, cents BIGINT)"
)
ADA = rio.ObjectId("Purse", "ada")


class Purse(rio.State):
    owner: str = ""
    cents: int = 0


class Purses(SqlTable[Purse]):
    table = "purse"
    columns = ("owner", "cents")
    migrations = (TABLE,)

    def to_row(self, state: Purse) -> tuple[object, ...]:
        return (state.owner, state.cents)

    def to_state(self, row: tuple[Any, ...]) -> Purse:
        owner, cents = row
        return Purse(owner, cents)


class WithNote(rio.State):
    owner: str = ""
    cents: int = 0
    note: str = ""


class NotedPurses(SqlTable[WithNote]):
    """The same table, as newer code has it."""

    table = "purse"
    columns = ("owner", "cents", "note")
    migrations = (
        TABLE,
        "ALTER TABLE purse ADD COLUMN note TEXT",
        "UPDATE purse SET note = 'old' WHERE rio_version > 0",
    )

    def to_row(self, state: WithNote) -> tuple[object, ...]:
        return (state.owner, state.cents, state.note)

    def to_state(self, row: tuple[Any, ...]) -> WithNote:
        return WithNote(*row)


STATES = (Purse("Ada", 5), Purse("", -(1 << 62)), Purse("Ünal 🦀", 0))


class TestTableInSqlite(TypedStateStorageTests):
    states = STATES

    @pytest.fixture
    async def typed_state(self, tmp_path: Path) -> AsyncIterator[Purses]:
        async with Purses(f"sqlite:///{tmp_path}/purse.db") as storage:
            yield storage


class TestTableInPostgres(TypedStateStorageTests):
    states = STATES

    @pytest.fixture
    async def typed_state(self, postgres_url: str) -> AsyncIterator[Purses]:
        async with Purses(postgres_url) as storage:
            yield storage


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/purse.db"
    return str(request.getfixturevalue("postgres_url"))


async def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """What another program reads."""
    if url.startswith("sqlite"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"))
        try:
            return connection.execute(statement).fetchall()
        finally:
            connection.close()
    session = await asyncpg.connect(url)
    try:
        return [tuple(row) for row in await session.fetch(statement)]
    finally:
        await session.close()


async def save(storage: SqlTable[Any], state: rio.State) -> None:
    try:
        version, _ = await storage.load_and_fence(ADA, 1)
    except StateNotFound:
        version = 0
    await storage.save(ADA, 1, version, state)


async def test_other_programs_read_the_columns(url: str) -> None:
    async with Purses(url) as purses:
        await save(purses, Purse("Ada", 7))
        with pytest.raises(StateNotFound):
            await purses.load_and_fence(rio.ObjectId("Purse", "only loaded"), 1)
        rows = await query(url, "SELECT id, owner, cents FROM purse WHERE rio_version > 0")
    assert rows == [("ada", "Ada", 7)]


async def test_each_migration_is_done_once_and_in_order(url: str) -> None:
    async with Purses(url) as purses:
        await save(purses, Purse("Ada", 7))
    for _ in range(2):
        async with NotedPurses(url) as purses:
            assert await purses.load_and_fence(ADA, 1) == (1, WithNote("Ada", 7, "old"))
    async with NotedPurses(url) as purses:
        await save(purses, WithNote("Ada", 7, "new"))
    async with NotedPurses(url) as purses:
        assert await purses.load_and_fence(ADA, 1) == (2, WithNote("Ada", 7, "new"))


async def test_older_code_does_not_use_a_table_that_newer_code_has_changed(url: str) -> None:
    async with NotedPurses(url):
        pass
    purses = Purses(url)
    with pytest.raises(SchemaMismatch, match="has seen 3 migrations, and this program knows 1"):
        await purses.prepare()
    with pytest.raises(StorageClosed):
        await purses.load_and_fence(ADA, 1)


class WrongPurses(Purses):
    migrations = (TABLE, "ALTER TABLE nothing ADD COLUMN x TEXT")


async def test_a_migration_that_fails_leaves_nothing_of_the_others(url: str) -> None:
    with pytest.raises(SchemaMismatch):
        await WrongPurses(url).prepare()
    async with Purses(url) as purses:  # makes the table
        await save(purses, Purse("Ada", 7))


class UnfencedPurses(Purses):
    migrations = ("CREATE TABLE purse (id TEXT PRIMARY KEY, owner TEXT, cents BIGINT)",)


class NoPurses(Purses):
    migrations = ()


@pytest.mark.parametrize("table", [UnfencedPurses, NoPurses])
async def test_a_table_without_its_columns_is_refused_when_it_is_opened(
    url: str, table: type[Purses]
) -> None:
    with pytest.raises(
        SchemaMismatch,
        match="the table purse needs the columns id, rio_token, rio_version, owner, cents, and has",
    ):
        await table(url).prepare()


async def test_a_row_of_another_length_is_refused_with_the_names_of_the_columns(url: str) -> None:
    class Short(Purses):
        def to_row(self, state: Purse) -> tuple[object, ...]:
            return (state.owner,)

    async with Short(url) as purses:
        with pytest.raises(
            TypeError, match=r"Short.to_row\(\) gave 1 values for the columns owner"
        ):
            await save(purses, Purse("Ada", 7))


async def test_a_row_that_is_no_state_is_corrupt(url: str) -> None:
    class Strict(Purses):
        def to_state(self, row: tuple[Any, ...]) -> Purse:
            raise ValueError(f"odd: {row}")

    async with Purses(url) as purses:
        await save(purses, Purse("Ada", 7))
    async with Strict(url) as purses:
        with pytest.raises(StateCorrupt, match=r"row of Purse/ada in purse is no state: .*odd"):
            await purses.load_and_fence(ADA, 2)


async def test_a_table_has_the_objects_of_one_type_with_ids_that_are_text(url: str) -> None:
    async with Purses(url) as purses:
        await save(purses, Purse("Ada", 7))
        with pytest.raises(Unsupported, match="has the objects of Purse, and Other/ada"):
            await purses.load_and_fence(rio.ObjectId("Other", "ada"), 1)
        with pytest.raises(Unsupported, match="NUL"):
            await purses.load_and_fence(rio.ObjectId("Purse", "a\0b"), 1)


async def test_a_database_may_be_shared_with_other_roles(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "purse.db")
    async with SqliteState(database), Purses(database) as purses:
        await save(purses, Purse("Ada", 7))


def test_what_cannot_be_a_table_is_refused() -> None:
    class Nameless(Purses):
        table = ""

    with pytest.raises(ConfigurationError, match="Nameless names no table: set table = "):
        Nameless("sqlite:///purse.db")
    with pytest.raises(ConfigurationError, match="needs sqlite:/// or postgres://"):
        Purses("memory://")
    with pytest.raises(ConfigurationError, match="must begin with one of"):
        Purses("mysql://purse")
