"""A URL names a storage. The drivers of other storages are not loaded."""

import subprocess
import sys
from pathlib import Path

import pytest
from msgspec.structs import replace

from rio.errors import ConfigurationError, StorageClosed, StorageUnavailable
from rio.storage import Storage, open_storage
from rio.storage.local import LocalMembershipStorage, LocalState
from rio.storage.sqlite import SqliteMembershipStorage, SqliteObjectPlacement, SqliteState
from rio.testing.conformance._state import single
from tests.storage.steps import ADA, load_nothing


def test_importing_storage_loads_no_driver() -> None:
    script = (
        "import sys, rio.storage; print({'aiosqlite', 'sqlite3', 'asyncpg', 'redis'} &"
        " set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=30, check=True
    )
    assert ended.stdout == "set()\n"


async def test_each_memory_storage_is_another_one() -> None:
    async with open_storage("memory://") as one, open_storage("memory://") as two:
        await one.placement.claim(ADA, 1)
        assert await two.placement.lookup(ADA) is None


async def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with open_storage("sqlite:///a%20b.db") as storage:
        assert isinstance(storage.membership, SqliteMembershipStorage)
        assert isinstance(storage.placement, SqliteObjectPlacement)
        assert isinstance(storage.state, SqliteState)
        monkeypatch.chdir("/")
    assert (tmp_path / "a b.db").exists()


async def test_an_absolute_path_has_four_slashes(tmp_path: Path) -> None:
    async with open_storage(f"sqlite:///{tmp_path}/a.db?busy_timeout=0.5"):
        assert (tmp_path / "a.db").exists()


def test_each_file_name_is_a_file_of_its_own() -> None:
    paths = set()
    for name in ("tenant%231.db", "tenant%232.db", "a%3Fb.db", "a b.db", "%252e.db", "C:/x.db"):
        storage = open_storage(f"SQLite:///{name}")
        assert isinstance(storage.state, SqliteState)
        paths.add(storage.state._database.path)
    assert {path.rpartition("/")[2] for path in paths} == {
        "tenant#1.db",
        "tenant#2.db",
        "a?b.db",
        "a b.db",
        "%2e.db",
        "x.db",
    }


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("mongodb://host/db", "memory://, sqlite://"),
        ("bank.db", "memory://, sqlite://"),
        ("", "memory://, sqlite://"),
        ("memory://shared", "nothing may follow"),
        ("sqlite://bank.db", "sqlite:///relative.db"),
        ("sqlite:///", "sqlite:///relative.db"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:bank.db", "has no '://'.*write sqlite:///relative.db"),
        ("sqlite:./bank.db", "has no '://'.*write sqlite:///relative.db"),
        ("sqlite::memory:", "has no '://'.*write sqlite:///relative.db.* or memory://"),
        ("sqlite:////srv/bank.db#2", "'#'.*%23"),
        ("redis:cache", "has no '://'.*write redis://"),
        ("redis://cache/bank", "numbers, not '/bank'.*namespace="),
        ("redis://cache/0/1", "numbers, not '/0/1'"),
        ("redis://cache/\u0663", "numbers"),
        ("redis://cache:port/0", "cache"),
        ("redis://u:p#w@cache/0", "'#'.*%23"),
        ("postgres:bank", "has no '://'.*write postgres://"),
        ("postgres://u:p#w@db/bank", "'#'.*%23"),
        ("postgres://[db/bank", "no URL"),
        ("http:one", "has no '://'.*write http://"),
        ("http://one:80/#2", "'#'.*%23"),
        ("memory:", "has no '://'.*write memory://"),
        ("sqlite:///bank.db?timeout=5", "there is busy_timeout"),
        ("sqlite:///bank.db?busy_timeout=soon", "seconds"),
        ("sqlite:///bank.db?busy_timeout=-1", "busy_timeout"),
    ],
)
def test_a_url_that_names_no_storage_is_refused_with_what_would(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        open_storage(url)


async def test_one_role_can_live_elsewhere(tmp_path: Path) -> None:
    async with replace(open_storage(f"sqlite:///{tmp_path}/a.db"), state=LocalState()) as storage:
        generation, _ = await storage.membership.register("h:1")
        assert (await storage.placement.claim(ADA, generation)).generation == generation


async def test_each_role_can_have_a_url_of_its_own(
    tmp_path: Path, postgres_url: str, redis_url: str
) -> None:
    urls = {
        "membership": redis_url,
        "placement": postgres_url,
        "state": f"sqlite:///{tmp_path}/a.db",
    }
    for role in urls:
        urls = dict(zip(urls, [*list(urls.values())[1:], urls["membership"]], strict=True))
        async with open_storage(**urls) as storage:
            generation = (await storage.membership.register(f"{role}:1")).generation
            assert await storage.membership.renew(generation)
            token = (await storage.placement.claim(ADA, generation)).token
            await load_nothing(storage.state, ADA, token)
            assert await storage.state.commit(ADA, token, 0, single(b"x")) == 1


async def test_a_role_with_a_url_of_its_own_leaves_the_others_where_they_are(
    tmp_path: Path,
) -> None:
    async with open_storage(f"sqlite:///{tmp_path}/a.db", state="memory://") as storage:
        assert isinstance(storage.membership, SqliteMembershipStorage)
        assert isinstance(storage.placement, SqliteObjectPlacement)
        assert isinstance(storage.state, LocalState)


def test_a_role_without_a_url_is_named() -> None:
    with pytest.raises(ConfigurationError, match="no storage for membership, placement: name one"):
        open_storage(state="memory://")


async def test_a_role_that_cannot_be_prepared_leaves_none_open(tmp_path: Path) -> None:
    membership = LocalMembershipStorage()
    state = SqliteState(tmp_path / "missing" / "a.db")
    storage = Storage(membership, open_storage("memory://").placement, state)
    with pytest.raises(StorageUnavailable):
        await storage.prepare()
    with pytest.raises(StorageClosed):
        await membership.snapshot()
