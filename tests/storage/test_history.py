"""The history of a storage changes when another database server takes over, and only then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

import rio
from rio.identity import ObjectId
from rio.storage import Storage
from rio.storage.postgres import PostgresDatabase, PostgresObjectPlacement
from tests.cluster.processes.harness import until
from tests.servers import PostgresServer, RedisServer, Server

pytestmark = pytest.mark.servers

THING = ObjectId("Thing", "a")


async def in_thread(*steps: Callable[[], Any]) -> None:
    for step in steps:
        await asyncio.to_thread(step)


@pytest.fixture(params=["memory", "sqlite", "postgres", "redis"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "memory":
        return "memory://"
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/rio.db"
    return str(request.getfixturevalue(f"{request.param}_url"))


async def test_all_roles_of_a_database_have_one_history_and_it_stays(url: str) -> None:
    async with rio.open_storage(url) as storage:
        histories = {role.history for role in storage}
        assert len(histories) == 1
        await use(storage)
        assert {role.history for role in storage} == histories


async def use(storage: Storage) -> None:
    await storage.placement.claim(THING, 1)
    await storage.membership.snapshot()


@pytest.mark.parametrize("kind", [PostgresServer, RedisServer])
async def test_a_restart_changes_no_history(kind: type[Server]) -> None:
    with await asyncio.to_thread(kind) as server:
        async with rio.open_storage(server.url) as storage:
            before = storage.placement.history
            for end in (server.stop, server.kill):
                await in_thread(end, server.start)
                await use(storage)
                assert storage.placement.history == before


async def test_a_standby_that_was_promoted_has_another_history() -> None:
    with await asyncio.to_thread(PostgresServer) as primary:
        standby = await asyncio.to_thread(primary.standby)
        with standby:
            await in_thread(primary.wait_for_standby)
            hosts = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
            async with rio.open_storage(f"postgres://rio@{hosts}/postgres") as storage:
                before = storage.placement.history
                await in_thread(primary.kill, standby.promote)
                await use(storage)
                assert before
                assert storage.placement.history
                assert storage.placement.history != before


async def test_a_replica_that_was_promoted_has_another_history() -> None:
    with (
        await asyncio.to_thread(RedisServer) as primary,
        await asyncio.to_thread(RedisServer) as replica,
    ):
        follower = Redis(port=replica.port)
        follower.execute_command("REPLICAOF", "127.0.0.1", primary.port)
        await until(lambda: follower.info("replication")["master_link_status"] == "up")
        follower.execute_command("REPLICAOF", "NO", "ONE")
        async with (
            rio.open_storage(primary.url) as before,
            rio.open_storage(replica.url) as after,
        ):
            assert before.placement.history != after.placement.history
        follower.close()


async def test_a_user_who_may_not_ask_for_the_history_has_none(
    postgres_server: PostgresServer,
) -> None:
    deny = "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
    await in_thread(
        lambda: postgres_server.ask("CREATE ROLE plain LOGIN"),
        lambda: postgres_server.ask("CREATE SCHEMA AUTHORIZATION plain"),
    )
    place = f"{postgres_server.url.replace('rio@', 'plain@')}?search_path=plain"
    async with PostgresObjectPlacement(PostgresDatabase(place)) as placement:
        assert placement.history
    await in_thread(lambda: postgres_server.ask(deny))
    try:
        async with PostgresObjectPlacement(PostgresDatabase(place)) as placement:
            assert placement.history == ""
            assert await placement.claim(THING, 1)
    finally:
        await in_thread(
            lambda: postgres_server.ask(deny.replace("REVOKE", "GRANT").replace("FROM", "TO"))
        )
