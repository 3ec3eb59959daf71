"""The write-ahead log of a SQLite file, beside somebody who reads for long."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from rio.storage.sqlite import SqliteDatabase, SqliteState, _connection, _lane
from rio.testing.conformance._state import single
from tests.storage.steps import ADA, load_nothing


@pytest.fixture(autouse=True)
def small_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lane, "LONG_LOG", 9 << 20)
    monkeypatch.setattr(_lane, "LOOK_INTERVAL", 0.0)
    monkeypatch.setattr(_connection, "LOG_LIMIT", 1 << 20)


async def test_the_log_shrinks_after_a_foreign_reader_and_the_server_says_who_is_to_blame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rio.db"
    async with SqliteState(SqliteDatabase(path)) as state:
        await load_nothing(state)
        with closing(sqlite3.connect(path)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM rio_object")
            for version in range(12):
                await state.commit(ADA, 1, version, single(bytes([version]) * (1 << 20)))
            assert os.stat(f"{path}-wal").st_size > 10 << 20
        for version in range(12, 15):
            await state.commit(ADA, 1, version, single(b"small"))
        assert os.stat(f"{path}-wal").st_size <= 1 << 20
    assert "a process reads the database for long" in caplog.text
