"""PostgreSQL that cannot be used, is too slow, or loses connections and replies."""

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import ConfigurationError, SchemaMismatch, StorageUnavailable, Superseded
from rio.identity import ObjectId
from rio.storage import _connector
from rio.storage.postgres import (
    PostgresDatabase,
    PostgresMembershipStorage,
    PostgresObjectPlacement,
    PostgresState,
    _dialer,
    _pool,
)
from rio.storage.postgres._dialer import PostgresDialer
from rio.storage.postgres._pool import PostgresPool
from rio.testing.conformance._state import held, single
from rio.testing.proxy import Proxy
from tests.servers import Server
from tests.storage.steps import ADA, load_nothing, waiting_for_a_lock

pytestmark = pytest.mark.servers


@pytest.fixture
async def placement(postgres_url: str) -> AsyncIterator[ObjectPlacement]:
    async with PostgresObjectPlacement(postgres_url) as placement:
        yield placement


@pytest.fixture
async def state(postgres_url: str) -> AsyncIterator[StateStorage]:
    async with PostgresState(postgres_url) as state:
        yield state


# --- servers and databases that cannot be used


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sqlite:///x", "no URL of PostgreSQL"),
        ("postgres://h/d?sslmode=never", "sslmode"),
        ("postgres://h:port/d", "port"),
        ("postgres://h/d?ssl=true", "sslmode=require"),
    ],
)
async def test_a_url_that_cannot_work_is_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        await PostgresState(url).prepare()


async def test_a_user_who_lacks_a_permission_is_told_so(postgres_url: str, session: Any) -> None:
    schema = await session.fetchval("SELECT current_schema()")
    guest = f"guest_of_{schema}"
    await session.execute(f"CREATE ROLE {guest} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {guest}")
    url = postgres_url.replace("rio@", f"{guest}@")
    with pytest.raises(StorageUnavailable, match=r"this user may not do it.*permission denied"):
        await PostgresState(url).prepare()
    async with PostgresState(postgres_url):
        with pytest.raises(StorageUnavailable, match=r"this user may not do it.*permission denied"):
            await PostgresState(url).prepare()


def test_a_pool_has_at_least_one_connection(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="pool_size"):
        PostgresDatabase(postgres_url, pool_size=0)


async def test_a_pool_of_one_serves_all(postgres_url: str) -> None:
    database = PostgresDatabase(postgres_url, pool_size=1)
    async with PostgresObjectPlacement(database) as placement, PostgresState(database) as state:
        await asyncio.gather(
            placement.claim(ADA, 1),
            load_nothing(state),
            placement.owned_by(1),
            placement.lookup(ADA),
        )


async def test_a_database_that_is_not_there_and_a_user_who_may_not_are_unavailable_and_say_so(
    postgres_server: Server,
) -> None:
    url = postgres_server.url
    with pytest.raises(StorageUnavailable, match="does not exist: create it"):
        await PostgresState(f"{url}_of_nobody").prepare()
    with pytest.raises(StorageUnavailable, match="refused the login"):
        await PostgresState(url.replace("rio@", "stranger:s3cret@")).prepare()


async def test_a_schema_that_is_not_there_and_an_unknown_option_are_configuration_errors(
    postgres_server: Server,
) -> None:
    with pytest.raises(ConfigurationError, match="search_path"):
        await PostgresState(f"{postgres_server.url}?search_path=nowhere").prepare()
    with pytest.raises(ConfigurationError, match="unrecognized"):
        await PostgresState(f"{postgres_server.url}?colour=red").prepare()


@pytest.mark.parametrize("option", ["shared_buffers=1GB", "work_mem=much"])
async def test_an_option_that_cannot_be_set_is_a_configuration_error(
    postgres_server: Server, option: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"an option.*{option.partition('=')[0]}"):
        await PostgresState(f"{postgres_server.url}?{option}").prepare()


async def test_options_of_libpq_are_taken_or_ignored_with_a_warning(
    postgres_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    ignored = "channel_binding=prefer&connect_timeout=10&keepalives=1&keepalives_idle=30"
    url = f"{postgres_url}&sslmode=prefer&application_name=shop&work_mem=8MB&{ignored}"
    connection = await PostgresDialer(url).dial()
    assert await connection.fetchval("SHOW application_name") == "shop"
    assert await connection.fetchval("SHOW work_mem") == "8MB"
    await connection.close()
    assert (
        "rio ignores channel_binding, connect_timeout, keepalives, keepalives_idle" in caplog.text
    )


async def test_the_login_names_no_settings_which_poolers_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.05)
    logins = []

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        logins.append(await reader.readexactly(length - 4))
        writer.close()

    pooler = await asyncio.start_server(take, "127.0.0.1", 0)
    async with pooler:
        place = f"rio@127.0.0.1:{pooler.sockets[0].getsockname()[1]}"
        url = f"postgres://{place}/d?search_path=a&sslmode=disable"
        with pytest.raises(StorageUnavailable):
            await PostgresState(url).prepare()
    words = logins[0][4:].rstrip(b"\0").split(b"\0")
    assert set(words[::2]) == {b"client_encoding", b"user", b"database"}


async def test_a_server_that_is_read_only_says_so(
    postgres_url: str, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.05)
    async with PostgresMembershipStorage(postgres_url) as membership:
        before = await membership.snapshot()
    await session.execute("ALTER ROLE rio SET default_transaction_read_only = on")
    try:
        with pytest.raises(StorageUnavailable, match=r"read-only.*target_session_attrs=any"):
            await PostgresMembershipStorage(postgres_url).prepare()
        url = f"{postgres_url}&target_session_attrs=any"
        async with PostgresMembershipStorage(url) as membership:
            assert await membership.snapshot() == before
    finally:
        await session.execute("SET default_transaction_read_only = off")
        await session.execute("ALTER ROLE rio RESET default_transaction_read_only")


async def test_tables_behind_the_first_schema_of_the_path_are_those_of_another_cluster(
    postgres_url: str, session: Any
) -> None:
    async with PostgresMembershipStorage(postgres_url) as other:
        await other.register("h:1")
        first = f"{await session.fetchval('SELECT current_schema()')}_first"
        await session.execute(f"CREATE SCHEMA {first}")
        url = postgres_url.replace("search_path=", f"search_path={first},")
        async with PostgresMembershipStorage(url) as own:
            before = await own.snapshot()
            assert before.members == ()
            assert before.cluster_id != (await other.snapshot()).cluster_id
            change = asyncio.create_task(own.wait_for_change(before.version, 10.0))
            await asyncio.sleep(0.5)  # until it listens
            async with asyncio.timeout(2.0):
                await own.register("h:2")
                await change
        assert [member.address for member in (await other.snapshot()).members] == ["h:1"]


async def test_the_password_is_never_shown(unused_port: int) -> None:
    database = PostgresDatabase(f"postgres://ada:s3cret@127.0.0.1:{unused_port}/d?password=s3cret")
    with pytest.raises(StorageUnavailable) as failed:
        await PostgresState(database).prepare()
    assert "s3cret" not in f"{database!r} {failed.value} {failed.value.__cause__}"
    assert f"postgres://ada:***@127.0.0.1:{unused_port}/d" in repr(database)


async def test_a_server_that_was_not_there_a_moment_ago_is_not_waited_for_again(
    unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.05)
    pool = PostgresPool(PostgresDialer(f"postgres://rio@127.0.0.1:{unused_port}/d"), 2)
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        await pool.run(lambda connection: connection.fetch("SELECT 1"))
    with pytest.raises(StorageUnavailable, match="a moment ago"):
        await pool.run(lambda connection: connection.fetch("SELECT 1"))


@pytest.mark.parametrize("found", [0, 99])
async def test_tables_of_another_version_are_refused(
    postgres_url: str, session: Any, found: int
) -> None:
    async with PostgresState(postgres_url):
        pass
    await session.execute(f"UPDATE rio_cluster SET schema_version = {found}")
    with pytest.raises(SchemaMismatch, match=f"schema {found}"):
        await PostgresState(postgres_url).prepare()


async def test_tables_that_are_not_ours_are_a_mismatch(session: Any, state: StateStorage) -> None:
    await session.execute("ALTER TABLE rio_object DROP COLUMN data")
    with pytest.raises(SchemaMismatch, match="data"):
        await state.load_object(ADA, 1)


async def test_what_has_returned_is_durable_unless_the_url_says_otherwise(
    postgres_url: str, session: Any
) -> None:
    for options, expected in (
        ("", "on"),
        ("&synchronous_commit=off", "off"),
        ("&synchronous_commit=remote_apply", "remote_apply"),
    ):
        await session.execute("ALTER ROLE rio SET synchronous_commit = off")
        connection = await PostgresDialer(postgres_url + options).dial()
        assert await connection.fetchval("SHOW synchronous_commit") == expected
        await connection.close()
    await session.execute("ALTER ROLE rio RESET synchronous_commit")


# --- deadlines


async def test_the_server_and_the_system_have_deadlines_too(postgres_url: str) -> None:
    connection = await PostgresDialer(postgres_url).dial()
    settings = dict(await connection.fetch("SELECT name, setting FROM pg_settings"))
    assert settings["statement_timeout"] == "1800"
    assert settings["idle_in_transaction_session_timeout"] == "2000"
    assert settings["tcp_user_timeout"] == "5000"
    assert settings["tcp_keepalives_idle"] == "5"
    connected = connection._transport.get_extra_info("socket")
    assert connected.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        assert connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 5000
    await connection.close()


async def test_a_server_that_accepts_and_says_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_dialer, "CONNECT_TIMEOUT", 0.05)
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.1)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(StorageUnavailable, match="cannot be reached"),
    ):
        await PostgresState(f"postgres://rio@127.0.0.1:{silent.getsockname()[1]}/d").prepare()


async def test_who_gets_no_connection_in_time_is_told_that_nothing_was_done(
    postgres_url: str, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_pool, "WAIT_TIMEOUT", 0.1)
    database = PostgresDatabase(postgres_url, pool_size=1)
    async with PostgresMembershipStorage(database) as membership, PostgresState(database) as state:
        await state.commit(ADA, 1, 0, single(b"first"))
        transaction = session.transaction()
        await transaction.start()
        await session.execute("SELECT FROM rio_object FOR UPDATE")
        saving = asyncio.create_task(state.commit(ADA, 1, 1, single(b"x")))
        await waiting_for_a_lock(session, 1)
        with pytest.raises(StorageUnavailable, match="all connections are busy, nothing was done"):
            await membership.register("h:1")
        await transaction.rollback()
        assert await saving == 2
        assert (await membership.snapshot()).members == ()


async def test_a_connection_that_is_not_answered_takes_the_idle_ones_with_it(
    postgres_url: str, session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They go to the same server: waiting for each of them would be in vain too."""
    monkeypatch.setattr(_dialer, "COMMAND_TIMEOUT", 1.0)
    monkeypatch.setattr(_pool, "LONGEST_COMMAND", 1.0)
    pool = PostgresPool(PostgresDialer(postgres_url), 3)
    await asyncio.gather(
        *(pool.run(lambda connection: connection.fetch("SELECT pg_sleep(0.05)")) for _ in range(3))
    )
    ours = [
        row["pid"]
        for row in await session.fetch(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'rio'"
        )
    ]
    assert len(ours) == 3
    for pid in ours:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(StorageUnavailable, match="may have been done or not"):
            await pool.run(lambda connection: connection.fetch("SELECT 1"))
        assert await pool.run(lambda connection: connection.fetchval("SELECT 1")) == 1
    finally:
        for pid in ours:
            os.kill(pid, signal.SIGCONT)
    await pool.close()


async def test_a_statement_that_has_to_be_prepared_has_the_time_of_two_trips(
    postgres_server: Server, postgres_url: str
) -> None:
    """Over a network that is slow enough, nothing would ever be executed."""
    async with Proxy("127.0.0.1", postgres_server.port) as proxy:
        url = postgres_url.replace(str(postgres_server.port), str(proxy.port))
        connection = await PostgresDialer(url).dial()
        proxy.delay = 0.6
        for _ in range(2):
            assert await connection.fetch_in_time("SELECT 1") == [(1,)]
        proxy.delay = 0.0
        await connection.close()


async def test_rows_do_not_wait_for_a_round_that_is_slow(state: StateStorage, session: Any) -> None:
    bob = ObjectId("Account", "bob")
    for object_id in ADA, bob:
        await state.commit(object_id, 1, 0, single(b"first"))
    transaction = session.transaction()
    await transaction.start()
    await session.execute("SELECT FROM rio_object WHERE id = 'ada' FOR UPDATE")
    first = asyncio.create_task(state.commit(ADA, 1, 1, single(b"x")))
    await waiting_for_a_lock(session, 1)
    second = asyncio.create_task(state.commit(ADA, 1, 2, single(b"y")))
    assert await state.commit(bob, 1, 1, single(b"z")) == 2
    assert not first.done()
    assert not second.done()
    await transaction.rollback()
    assert (await first, await second) == (2, 3)


async def test_a_row_that_stays_locked_is_unavailable_and_its_connection_lives_on(
    postgres_url: str, session: Any
) -> None:
    async with PostgresState(PostgresDatabase(postgres_url, pool_size=1)) as state:
        await state.commit(ADA, 1, 0, single(b"first"))
        transaction = session.transaction()
        await transaction.start()
        await session.execute("SELECT FROM rio_object FOR UPDATE")
        ours = "SELECT pid FROM pg_stat_activity WHERE application_name = 'rio' ORDER BY pid"
        before = await session.fetch(ours)
        with pytest.raises(StorageUnavailable, match="took too long"):
            await state.commit(ADA, 1, 1, single(b"x"))
        await transaction.rollback()
        assert await state.commit(ADA, 1, 1, single(b"x")) == 2
        assert await session.fetch(ours) == before


async def test_a_renewal_does_not_wait_for_what_is_stuck(postgres_url: str, session: Any) -> None:
    database = PostgresDatabase(postgres_url, pool_size=1)
    async with PostgresMembershipStorage(database) as membership, PostgresState(database) as state:
        generation = (await membership.register("h:1")).generation
        await state.commit(ADA, 1, 0, single(b"first"))
        transaction = session.transaction()
        await transaction.start()
        await session.execute("SELECT FROM rio_object FOR UPDATE")
        saving = asyncio.create_task(state.commit(ADA, 1, 1, single(b"x")))
        await waiting_for_a_lock(session, 1)
        assert await membership.renew(generation)
        assert not saving.done()
        await transaction.rollback()
        assert await saving == 2


async def test_a_connection_whose_server_is_frozen_is_dropped_and_replaced(
    postgres_url: str, session: Any
) -> None:
    async with PostgresState(PostgresDatabase(postgres_url, pool_size=1)) as state:
        await load_nothing(state)
        frozen = await session.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'rio'"
        )
        os.kill(frozen, signal.SIGSTOP)
        try:
            with pytest.raises(StorageUnavailable, match="it may have been done or not"):
                await state.commit(ADA, 1, 0, single(b"x"))
            await load_nothing(state, token=2)
        finally:
            os.kill(frozen, signal.SIGCONT)


async def test_a_claim_whose_connection_was_lost_is_made_again(
    placement: ObjectPlacement, session: Any
) -> None:
    for number in range(20):
        await session.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rio'"
        )
        assert (await placement.claim(ObjectId("T", str(number)), 1)).generation == 1


async def test_a_lost_reply_to_a_claim_ends_with_the_claimant_as_the_owner(
    postgres_server: Server, postgres_url: str
) -> None:
    async with Proxy("127.0.0.1", postgres_server.port) as proxy:
        behind = postgres_url.replace(f":{postgres_server.port}", f":{proxy.port}")
        async with PostgresObjectPlacement(behind) as placement:
            for number in range(100):
                object_id = ObjectId("T", str(number))
                proxy.lose_replies(1)
                claimed = await placement.claim(object_id, 1)
                assert claimed.generation == 1
                assert await placement.claim(object_id, 2) == claimed
            assert proxy.lost == 100


async def test_a_lost_reply_to_a_save_is_an_unknown_outcome_and_not_a_second_save(
    postgres_server: Server, postgres_url: str
) -> None:
    async with Proxy("127.0.0.1", postgres_server.port) as proxy:
        behind = postgres_url.replace(f":{postgres_server.port}", f":{proxy.port}")
        database = PostgresDatabase(behind, pool_size=1)  # nobody else loses a reply
        async with PostgresState(database) as state:
            await state.commit(ADA, 1, 0, single(b"first"))
            for version in range(1, 21):
                with pytest.raises(Superseded):
                    await state.commit(
                        ADA, 99, version, single(b"")
                    )  # the statement is prepared now: its next reply is that of the save
                proxy.lose_replies(1)
                with pytest.raises(StorageUnavailable, match="it may have been done or not"):
                    await state.commit(ADA, 1, version, single(b"%d" % version))
                assert await state.load_object(ADA, 1) == held(version + 1, b"%d" % version)
