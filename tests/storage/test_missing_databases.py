"""A client, or a command that looks, creates nothing where no server has ever run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import rio
from rio.errors import NoServersAvailable, StorageUnavailable
from rio.storage import open_storage, read_schemas

pytestmark = pytest.mark.servers


@pytest.fixture(params=["sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of an empty database."""
    if request.param == "sqlite":
        (tmp_path / "bank.db").touch()
        return f"sqlite:///{tmp_path}/bank.db"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


class Ping(rio.Message[str]):
    pass


async def test_a_client_with_a_wrong_path_names_it_and_creates_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    client = rio.Client("sqlite:///wrong.db")
    for _ in range(2):
        with pytest.raises(StorageUnavailable, match=r"/wrong\.db: there is no such file"):
            await client.start()
    assert os.listdir(tmp_path) == []
    async with open_storage("sqlite:///wrong.db"):
        pass
    async with client:
        assert client.members.members == ()


async def test_a_client_of_an_empty_database_creates_nothing_in_it(url: str) -> None:
    with pytest.raises(StorageUnavailable, match="there is nothing of rio: has a server been"):
        await rio.Client(url).start()
    for status in await read_schemas(open_storage(url)):
        assert status.found == 0


async def test_a_call_that_finds_no_server_names_the_storage_without_its_password(url: str) -> None:
    place = url.partition("?")[0].rpartition("/")[2]
    with_password = url.replace("postgres://rio@", "postgres://rio:secret@")
    async with open_storage(url) as storage:
        for source in (with_password, storage):
            async with rio.Client(source) as client:
                with pytest.raises(NoServersAvailable) as raised:
                    await client.send("Thing", "a", Ping(), timeout=0.05)
            assert "lists no active server: it holds no members" in str(raised.value)
            assert place in str(raised.value)
            assert "secret" not in str(raised.value)
