"""Accounts with exactly the grants that the page about security names."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError

import rio
from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import StorageError
from rio.storage import Storage, open_storage
from rio.storage.postgres import (
    PostgresMembershipStorage,
    PostgresObjectPlacement,
    PostgresState,
)
from rio.storage.redis import RedisMembershipStorage, RedisObjectPlacement, RedisState
from rio.storage.storage import open_members
from rio.testing.conformance import (
    FirstCommitTests,
    MembershipStorageTests,
    ObjectPlacementTests,
    StateStorageTests,
)
from tests.servers import Server
from tests.storage.account import Account, Add

pytestmark = pytest.mark.servers

PAGES = Path(__file__).parents[2] / "docs"
names = count(1)


def blocks(page: str, language: str, begin: str, name: str) -> list[str]:
    """The blocks of a page that begin so, for accounts and a schema that are called otherwise."""
    found = re.findall(rf"^```{language}\n(.*?)^```", (PAGES / page).read_text(), re.S | re.M)
    return [each.replace("bank", name) for each in found if each.startswith(begin)]


def some_of(suite: type, *tests: str) -> type:
    """The tests of a suite that together do everything that a role of the storage can do."""
    others = [name for name in dir(suite) if name.startswith("test_") and name not in tests]
    return type(suite.__name__, (suite,), dict.fromkeys(others))


Members: Any = some_of(
    MembershipStorageTests,
    "test_another_cluster_id_ends_all_members",
    "test_a_new_manifest_replaces_the_old_one_and_raises_the_version",
    "test_settings_are_set_only_by_who_has_read_the_newest_snapshot",
    "test_no_renewal_is_lost_among_many_at_once",
    "test_a_member_that_has_renewed_since_it_was_read_does_not_die",
    "test_a_vote_is_kept_and_does_not_raise_the_version",
    "test_a_purged_member_stays_dead_to_every_call",
)
Placements: Any = some_of(
    ObjectPlacementTests,
    "test_it_belongs_to_the_cluster_that_adopted_it",
    "test_a_claim_that_names_the_owners_token_takes_over",
    "test_a_released_object_is_free_and_its_next_token_is_larger",
    "test_the_placements_of_a_member_go_together_and_those_of_others_stay",
)
States: Any = some_of(
    StateStorageTests,
    "test_it_belongs_to_the_cluster_that_adopted_it",
    "test_what_was_saved_is_loaded",
    "test_states_are_saved_together_and_the_others_stay_as_they_were",
    "test_a_rewrite_leaves_whoever_has_the_object_loaded_alone",
    "test_the_ids_with_a_saved_state_are_listed_by_pages",
)
FirstCommits: Any = some_of(
    FirstCommitTests,
    "test_an_activation_that_was_paused_before_its_first_save_cannot_save_any_more",
    "test_a_save_under_an_older_token_is_found_and_not_overwritten",
)


async def live(of_servers: str, of_clients: str) -> None:
    """Run two servers and a client."""
    async with (
        rio.Server(rio.Registry(Account), storage=of_servers, cluster="local"),
        rio.Server(rio.Registry(Account), storage=of_servers, cluster="local"),
        rio.Client(of_clients) as client,
    ):
        for id in "abcdef":
            assert await client.ref(Account, id).add(Add(7)) == 7
        await client.admin(rio.AdminCommand.shutdown(Account, "a"))
        assert await client.ref(Account, "a").add(Add(7)) == 14


async def refuses_to_write(url: str) -> None:
    """Make sure that an account for clients changes nothing, whatever it tries."""
    membership = open_members(url)
    await membership.prepare()
    try:
        before = await membership.snapshot()
        with pytest.raises(StorageError):
            await membership.register("10.0.0.1:7000")
        assert await membership.snapshot() == before
    finally:
        await membership.close()


# --- PostgreSQL -----------------------------------------------------------------------------------


@pytest.fixture
async def name(postgres_server: Server) -> AsyncIterator[str]:
    """A schema and accounts as the page says."""
    name = f"grants_{next(names)}"
    begin, after = blocks("security.md", "sql", "-- ", name)
    administrator = await asyncpg.connect(postgres_server.url)
    await administrator.execute(begin)
    async with open_storage(url_as(postgres_server, name, "owner")):
        pass
    owner = await asyncpg.connect(url_as(postgres_server, name, "owner"))
    await owner.execute(after)
    await owner.close()
    yield name
    for role in ("owner", "server", "client"):
        await administrator.execute(f"DROP OWNED BY {name}_{role} CASCADE")
        await administrator.execute(f"DROP ROLE {name}_{role}")
    await administrator.close()


def url_as(server: Server, name: str, role: str) -> str:
    return f"{server.url.replace('rio@', f'{name}_{role}:secret@')}?search_path={name}"


@pytest.fixture
def server_url(postgres_server: Server, name: str) -> str:
    return url_as(postgres_server, name, "server")


class TestMembersOnPostgres(Members):
    @pytest.fixture
    async def membership(self, server_url: str) -> AsyncIterator[MembershipStorage]:
        async with PostgresMembershipStorage(server_url) as membership:
            yield membership


class TestPlacementsOnPostgres(Placements):
    @pytest.fixture
    async def placement(self, server_url: str) -> AsyncIterator[ObjectPlacement]:
        async with PostgresObjectPlacement(server_url) as placement:
            yield placement


class TestStatesOnPostgres(States):
    @pytest.fixture
    async def state(self, server_url: str) -> AsyncIterator[StateStorage]:
        async with PostgresState(server_url) as state:
            yield state


class TestFirstCommitOnPostgres(FirstCommits):
    @pytest.fixture
    async def storage(self, server_url: str) -> AsyncIterator[Storage]:
        async with open_storage(server_url) as storage:
            yield storage


async def test_servers_and_clients_live_with_the_grants_of_the_page(
    postgres_server: Server, name: str, server_url: str
) -> None:
    client_url = url_as(postgres_server, name, "client")
    await live(server_url, client_url)
    await refuses_to_write(client_url)
    connection = await asyncpg.connect(client_url)
    for statement in (
        "UPDATE rio_member SET status = 5",
        "UPDATE rio_cluster SET generation_high = 0",
        "SELECT * FROM rio_state",
        "SELECT * FROM rio_object",
        "SELECT * FROM rio_placement",
        "SELECT nextval('rio_token')",
        "CREATE TABLE mine (id INTEGER)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_a_server_cannot_change_the_tables_themselves(server_url: str) -> None:
    connection = await asyncpg.connect(server_url)
    for statement in (
        "DROP TABLE rio_state",
        "CREATE TABLE mine (id INTEGER)",
        "TRUNCATE rio_state",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


# --- Redis ----------------------------------------------------------------------------------------


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_server.url) as redis:
        yield redis


@pytest.fixture
async def namespace(redis: Any) -> AsyncIterator[str]:
    """A namespace, and users for servers and clients as the pages say."""
    name = f"grants_{next(names)}"
    rules = [
        *blocks("storage.md", "text", "ACL SETUSER", name),
        *blocks("security.md", "text", "ACL SETUSER", name),
    ]
    users = [rule.split()[2] for rule in rules]
    for rule in rules:
        await redis.execute_command(*rule.split())
    await redis.execute_command("ACL", "LOG", "RESET")
    yield name
    for user in users:
        await redis.execute_command("ACL", "DELUSER", user)


def redis_url_as(server: Server, namespace: str, user: str) -> str:
    return f"{server.url.replace('redis://', f'redis://{user}:secret@')}?namespace={namespace}"


@pytest.fixture
def url_of_server(redis_server: Server, namespace: str) -> str:
    return redis_url_as(redis_server, namespace, namespace)


class TestMembersOnRedis(Members):
    @pytest.fixture
    async def membership(self, url_of_server: str) -> AsyncIterator[MembershipStorage]:
        async with RedisMembershipStorage(url_of_server) as membership:
            yield membership


class TestPlacementsOnRedis(Placements):
    @pytest.fixture
    async def placement(self, url_of_server: str) -> AsyncIterator[ObjectPlacement]:
        async with RedisObjectPlacement(url_of_server) as placement:
            yield placement


class TestStatesOnRedis(States):
    @pytest.fixture
    async def state(self, url_of_server: str) -> AsyncIterator[StateStorage]:
        async with RedisState(url_of_server) as state:
            yield state


class TestFirstCommitOnRedis(FirstCommits):
    @pytest.fixture
    async def storage(self, url_of_server: str) -> AsyncIterator[Storage]:
        async with open_storage(url_of_server) as storage:
            yield storage


async def test_servers_and_clients_live_with_the_rules_of_the_page(
    redis_server: Server, redis: Any, namespace: str, url_of_server: str
) -> None:
    of_client = redis_url_as(redis_server, namespace, f"{namespace}_client")
    await live(url_of_server, of_client)
    assert await redis.execute_command("ACL", "LOG") == []
    await refuses_to_write(of_client)
    keys = [key.decode() for key in await redis.keys(f"{namespace}:*")]
    [statuses] = [key for key in keys if key.endswith("membership:status")]
    [data] = [key for key in keys if ":state:" in key][:1]
    async with Redis.from_url(of_client.partition("?")[0]) as client:
        assert await client.hgetall(statuses)
        for command in ("HSET", statuses, "1", "5"), ("DEL", statuses), ("HGETALL", data):
            with pytest.raises(NoPermissionError):
                await client.execute_command(*command)
        script = "return redis.call('HSET', KEYS[1], '1', '5')"
        with pytest.raises(Exception, match=r"ACL failure in script|can't run this command"):
            await client.eval(script, 1, statuses)
