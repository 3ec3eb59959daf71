"""A user of Redis with the permissions that the page about storages names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import rio
from rio.errors import StorageUnavailable
from rio.storage import migrate, open_storage, read_schemas
from rio.storage.redis import _schema, _scripts
from rio.storage.redis._dialer import SCRIPTS
from tests.servers import Server
from tests.storage.account import Account, Add

pytestmark = [pytest.mark.both_loops, pytest.mark.servers]

PAGE = Path(__file__).parents[2] / "docs" / "storage.md"
names = count(1)


def rule_of_the_page(user: str) -> list[str]:
    found = re.search(r"^ACL SETUSER .*?(?=^```)", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[0].replace("bank", user).split()


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_server.url) as redis:
        yield redis


@pytest.fixture
async def user(redis: Any) -> AsyncIterator[str]:
    """A user with the rule of the page, whose namespace has the user's name."""
    name = f"user_{next(names)}"
    await redis.execute_command(*rule_of_the_page(name))
    await redis.execute_command("ACL", "LOG", "RESET")
    yield name
    await redis.execute_command("ACL", "DELUSER", name)


def url_of(server: Server, user: str, namespace: str) -> str:
    return f"{server.url}?namespace={namespace}".replace("redis://", f"redis://{user}:secret@")


async def test_a_server_and_a_client_live_with_the_permissions_that_the_page_names(
    redis_server: Server, redis: Any, user: str
) -> None:
    url = url_of(redis_server, user, user)
    for total in 7, 14:
        async with (
            rio.Server(rio.Registry(Account), storage=url, cluster="local"),
            rio.Server(rio.Registry(Account), storage=url, cluster="local"),
            rio.Client(url) as client,
        ):
            for name in "ada", "bob":
                assert await client.ref(Account, name).add(Add(7)) == total
            await client.admin(rio.AdminCommand.shutdown(Account, "ada"))
    async with open_storage(url) as storage:
        assert await storage.state.list_objects("Account") == ["ada", "bob"]
        ended = [member.generation for member in (await storage.membership.snapshot()).members]
        assert [await storage.membership.purge(generation) for generation in ended] == [True] * 4
    await migrate(open_storage(url))
    [status] = await read_schemas(open_storage(url))
    assert status.live_members == ()
    assert await redis.execute_command("ACL", "LOG") == []


def test_the_page_names_every_command_of_every_script() -> None:
    scripts = b" ".join(script.text for script in SCRIPTS).decode()
    scripts += Path(_scripts.__file__).read_text() + Path(_schema.__file__).read_text()
    used = {command.lower() for command in re.findall(r"redis\.call\('(\w+)'", scripts)}
    named = {word[1:] for word in rule_of_the_page("bank") if word.startswith("+")}
    assert named == used | {"eval", "evalsha", "script|load", "info"}


async def test_a_user_has_no_other_namespace(redis_server: Server, user: str) -> None:
    with pytest.raises(StorageUnavailable, match=r"docs/storage\.md has the rule of an ACL"):
        async with open_storage(url_of(redis_server, user, "other")):
            pass
