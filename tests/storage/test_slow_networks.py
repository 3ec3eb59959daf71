"""How many round trips operations take, and connections that take many to be made.

A trip is what a proxy carries to the server in one piece, so these tests count and do not measure.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rio.contracts.state import StateStorage
from rio.errors import StorageUnavailable
from rio.identity import ObjectId
from rio.storage import _connector
from rio.storage._connector import Connector
from rio.storage.postgres import (
    PostgresDatabase,
    PostgresMembershipStorage,
    PostgresObjectPlacement,
    PostgresState,
)
from rio.storage.postgres._dialer import PostgresDialer
from rio.storage.postgres._pool import PostgresPool
from rio.storage.redis import (
    RedisDatabase,
    RedisMembershipStorage,
    RedisObjectPlacement,
    RedisState,
)
from rio.testing.conformance._state import single
from rio.testing.proxy import Proxy
from tests.server.harness import until
from tests.servers import Server

servers = pytest.mark.servers

MANY = [ObjectId("T", str(number)) for number in range(8)]


class CountingProxy(Proxy):
    """Counts the pieces that go to the server, and the connections."""

    def __init__(self, server: Server) -> None:
        super().__init__("127.0.0.1", server.port)
        self.trips = 0
        self.connections = 0

    def behind(self, url: str) -> str:
        return url.replace(f":{self.target[1]}", f":{self.port}")

    async def count(self, operation: Awaitable[Any]) -> int:
        """How many trips an operation takes."""
        before = self.trips
        await operation
        return self.trips - before

    async def _carry(self, connection: Any, server: tuple[str, int]) -> None:
        self.connections += 1
        await super()._carry(connection, server)

    async def _pass_on(self, piece: Any, target: Any, direction: Any) -> None:
        if direction is self._requests and piece.data:
            self.trips += 1
        await super()._pass_on(piece, target, direction)


async def save_all(state: StateStorage, version: int) -> None:
    await asyncio.gather(*(state.commit(each, 1, version, single(b"x")) for each in MANY))


# --- PostgreSQL


def ready(database: PostgresDatabase) -> Callable[[], bool]:
    """Whether the connections of a server are there, with their statements."""

    def is_ready() -> bool:
        opened = database._opened
        return opened is not None and opened.pool.idle == 5 and opened.lease.idle == 1

    return is_ready


@servers
async def test_each_operation_of_objects_and_of_the_lease_is_one_trip_to_postgres(
    postgres_server: Server, postgres_url: str
) -> None:
    async with CountingProxy(postgres_server) as proxy:
        database = PostgresDatabase(proxy.behind(postgres_url))
        membership = PostgresMembershipStorage(database)
        placement, state = PostgresObjectPlacement(database), PostgresState(database)
        async with membership, placement, state:
            generation = (await membership.register("h:1")).generation
            await until(ready(database))
            one, count = MANY[0], proxy.count
            token = (await placement.claim(one, generation)).token
            assert await count(placement.claim(one, generation)) == 1
            assert await count(placement.lookup(one)) == 1
            assert await count(state.load_object(one, token)) == 1
            assert await count(state.commit(one, token, 0, single(b"first"))) == 1
            assert await count(state.commit(one, token, 1, single(b"second"))) == 1
            assert await count(placement.release(one, token)) == 1
            assert await count(membership.renew(generation)) == 1
            assert await count(membership.snapshot()) == 1


@servers
async def test_saves_of_many_objects_at_the_same_moment_are_one_trip_to_postgres(
    postgres_server: Server, postgres_url: str
) -> None:
    async with CountingProxy(postgres_server) as proxy:
        database = PostgresDatabase(proxy.behind(postgres_url))
        async with PostgresState(database) as state:
            await until(lambda: database._opened is not None and database._opened.pool.idle == 5)
            for version in range(3):
                assert await proxy.count(save_all(state, version)) == 1


@servers
async def test_a_connection_is_prepared_in_the_trip_after_those_of_its_login(
    postgres_server: Server, postgres_url: str
) -> None:
    """Whatever the number of its statements, if another one has prepared them before."""
    async with CountingProxy(postgres_server) as proxy:
        dialer = PostgresDialer(proxy.behind(postgres_url))
        texts = [f"SELECT {number} + $1::bigint" for number in range(30)]
        first = await dialer.dial()
        assert await proxy.count(first.prepare_in_advance(texts, lambda: False)) > 30
        assert await proxy.count(dialer.dial()) == 4  # for TLS, the login, and two for the settings
        second = await dialer.dial()
        assert await proxy.count(second.prepare_in_advance(texts, lambda: False)) == 1
        for number, text in enumerate(texts):
            assert await proxy.count(second.fetch_in_time(text, 7)) == 1
            assert await second.fetch_in_time(text, 7) == [(number + 7,)]


@servers
async def test_arrays_are_not_asked_for(postgres_server: Server, postgres_url: str) -> None:
    """The driver would ask the server what they are, in six trips on each connection."""
    async with CountingProxy(postgres_server) as proxy:
        connection = await PostgresDialer(proxy.behind(postgres_url)).dial()
        text = "SELECT $1::bytea[], $2::bigint[]"
        asked: list[Any] = []

        async def fetch() -> None:
            asked.extend(await connection.fetch_in_time(text, [b"a", None], [1, None]))

        assert await proxy.count(fetch()) == 2
        assert asked == [([b"a", None], [1, None])]


@servers
async def test_a_statement_whose_columns_have_changed_is_prepared_again(
    postgres_url: str, session: Any
) -> None:
    await session.execute("CREATE TABLE changing (value bigint); INSERT INTO changing VALUES (1)")
    dialer = PostgresDialer(postgres_url)
    connections = [await dialer.dial() for _ in range(3)]
    text = "SELECT * FROM changing"
    for connection in connections[:2]:
        assert await connection.fetch_in_time(text) == [(1,)]
    await session.execute("ALTER TABLE changing ALTER value TYPE text")
    for _ in range(2):
        for connection in connections:
            assert await connection.fetch_in_time(text) == [("1",)]
    for connection in connections:
        await connection.close()


@servers
async def test_what_was_prepared_in_advance_leaves_no_transaction_open(
    postgres_url: str, session: Any
) -> None:
    database = PostgresDatabase(postgres_url)
    async with PostgresState(database):
        await until(lambda: database._opened is not None and database._opened.pool.idle == 5)
        ours = "FROM pg_stat_activity WHERE application_name = 'rio'"
        states = await session.fetch(f"SELECT state {ours}")
        assert [state for (state,) in states] == ["idle"] * 5


# --- connections that take long to be made


class Connection:
    """A connection to nothing."""

    def __init__(self) -> None:
        self.closed = False

    def is_closed(self) -> bool:
        return self.closed

    def is_in_transaction(self) -> bool:
        return False

    def terminate(self) -> None:
        self.closed = True

    async def close(self, timeout: float) -> None:
        self.closed = True

    async def prepare_in_advance(
        self, statements: object, is_needed: Callable[[], object]
    ) -> None: ...


class Dialer:
    """Makes connections to nothing, each when the test lets it."""

    server = "postgres://nowhere"

    def __init__(self) -> None:
        self.attempts: list[asyncio.Future[Connection]] = []

    async def dial(self) -> Connection:
        attempt: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()
        self.attempts.append(attempt)
        return await attempt


class Caller:
    """Uses a connection of a pool until the test lets it end."""

    def __init__(self, pool: PostgresPool) -> None:
        self.end = asyncio.Event()
        self.connection: Connection | None = None
        self.running = asyncio.create_task(pool.run(self._use))

    async def _use(self, connection: Connection) -> Connection:
        self.connection = connection
        await self.end.wait()
        return connection


def make_pool(dialer: Dialer, size: int) -> PostgresPool:
    pool: Any = PostgresPool
    made: PostgresPool = pool(dialer, size)
    return made


async def test_who_waits_for_a_connection_takes_one_that_is_returned_first() -> None:
    dialer = Dialer()
    pool = make_pool(dialer, 2)
    first = Caller(pool)
    await until(lambda: dialer.attempts)
    dialer.attempts[0].set_result(Connection())
    await until(lambda: first.connection)
    second = Caller(pool)
    await until(lambda: len(dialer.attempts) == 2)
    first.end.set()
    await until(lambda: second.connection)
    assert second.connection is first.connection
    second.end.set()
    await second.running
    await pool.close()
    assert dialer.attempts[1].cancelled()


async def test_a_pool_is_filled_before_anybody_waits_and_after_a_loss() -> None:
    dialer = Dialer()
    pool = make_pool(dialer, 3)
    pool.keep_ready(["SELECT"])
    for number in range(3):
        await until(lambda number=number: len(dialer.attempts) == number + 1)
        dialer.attempts[number].set_result(Connection())
    await until(lambda: pool.idle == 3)
    caller = Caller(pool)
    await until(lambda: caller.connection)
    assert caller.connection is not None
    caller.connection.terminate()
    caller.end.set()
    await caller.running
    await until(lambda: len(dialer.attempts) == 4)
    dialer.attempts[3].set_result(Connection())
    await until(lambda: pool.idle == 3)
    await pool.close()


async def test_who_is_cancelled_while_it_waits_for_a_connection_leaves_it_to_others() -> None:
    dialer = Dialer()
    pool = make_pool(dialer, 1)
    first, second = Caller(pool), Caller(pool)
    await until(lambda: dialer.attempts)
    first.running.cancel()
    dialer.attempts[0].set_result(Connection())
    await until(lambda: second.connection)
    second.end.set()
    await second.running
    assert pool.idle == 1
    await pool.close()


async def test_a_task_that_connects_is_replaced_if_somebody_cancels_it() -> None:
    dialer = Dialer()
    pool = make_pool(dialer, 1)
    caller = Caller(pool)
    await until(lambda: dialer.attempts)
    for task in list(pool._dialling):
        task.cancel()
    await until(lambda: len(dialer.attempts) == 2)
    dialer.attempts[1].set_result(Connection())
    await until(lambda: caller.connection)
    caller.end.set()
    await caller.running
    await pool.close()


async def test_a_failed_attempt_to_connect_fails_those_who_wait_for_it_alone() -> None:
    dialer = Dialer()
    pool = make_pool(dialer, 2)
    alone = Caller(pool)
    await until(lambda: dialer.attempts)
    dialer.attempts[0].set_exception(StorageUnavailable("no"))
    with pytest.raises(StorageUnavailable, match="no"):
        await alone.running
    first = Caller(pool)
    await until(lambda: len(dialer.attempts) == 2)
    dialer.attempts[1].set_result(Connection())
    await until(lambda: first.connection)
    second = Caller(pool)
    await until(lambda: len(dialer.attempts) == 3)
    dialer.attempts[2].set_exception(StorageUnavailable("no"))
    first.end.set()
    await until(lambda: second.connection)
    second.end.set()
    assert await second.running is await first.running
    await pool.close()


async def test_an_attempt_that_hangs_gets_others_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was lost on the way holds nobody up after the network is whole again."""
    monkeypatch.setattr(_connector, "HANGING", 0.001)
    dialer = Dialer()
    connecting = asyncio.create_task(Connector("nowhere", dialer.dial, (OSError,), drop).connect())
    await until(lambda: len(dialer.attempts) == _connector.MOST_ATTEMPTS)
    found = Connection()
    dialer.attempts[1].set_result(found)
    assert await connecting is found
    assert not found.closed
    assert len(dialer.attempts) == _connector.MOST_ATTEMPTS
    assert dialer.attempts[0].cancelled()
    assert dialer.attempts[2].cancelled()


async def test_of_two_connections_that_come_at_the_same_moment_one_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connector, "HANGING", 0.001)
    dialer = Dialer()
    connecting = asyncio.create_task(Connector("nowhere", dialer.dial, (OSError,), drop).connect())
    await until(lambda: len(dialer.attempts) == _connector.MOST_ATTEMPTS)
    made = [Connection(), Connection()]
    for attempt, connection in zip(dialer.attempts, made, strict=False):
        attempt.set_result(connection)
    found = await connecting
    assert [connection.closed for connection in made] == [each is not found for each in made]


async def drop(connection: Connection) -> None:
    connection.terminate()


# --- Redis


@servers
async def test_each_operation_of_objects_and_of_the_lease_is_one_trip_to_redis(
    redis_server: Server, redis_url: str
) -> None:
    async with CountingProxy(redis_server) as proxy:
        database = RedisDatabase.from_url(proxy.behind(redis_url))
        membership = RedisMembershipStorage(database)
        placement, state = RedisObjectPlacement(database), RedisState(database)
        async with membership, placement, state:
            generation = (await membership.register("h:1")).generation
            await until(lambda: all(lane.is_ready for lane in (database._lanes or {}).values()))
            one, count = MANY[0], proxy.count
            token = (await placement.claim(one, generation)).token
            assert await count(placement.claim(one, generation)) == 1
            assert await count(placement.lookup(one)) == 1
            assert await count(state.load_object(one, token)) == 1
            assert await count(state.commit(one, token, 0, single(b"first"))) == 1
            assert await count(state.commit(one, token, 1, single(b"second"))) == 1
            assert await count(placement.release(one, token)) == 1
            assert await count(membership.renew(generation)) == 1
            assert await count(membership.snapshot()) == 1
