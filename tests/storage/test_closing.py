"""A database whose closing fails can be opened again."""

import pytest

from rio.storage import open_storage


@pytest.fixture(params=["sqlite_url", "postgres_url", "redis_url"])
def url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


async def test_a_shared_database_whose_closing_fails_once_can_be_opened_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = open_storage(url)
    database = storage.membership._shared  # type: ignore[attr-defined]
    close = database._close

    async def fail() -> None:
        await close()
        raise OSError("closing failed")

    await storage.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(database, "_close", fail)
        with pytest.raises(OSError, match="closing failed"):
            await storage.close()
    async with storage:
        assert (await storage.membership.snapshot()).members == ()
