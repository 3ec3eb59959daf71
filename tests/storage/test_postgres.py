"""The storages on PostgreSQL keep the contracts, and gather, listen and share a server."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from rio.cluster.config import ClusterConfig
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.contracts.membership import MembershipSnapshot, MembershipStorage, MemberStatus
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import StorageClosed
from rio.identity import ObjectId
from rio.storage import Storage, open_storage
from rio.storage.postgres import (
    PostgresDatabase,
    PostgresMembershipStorage,
    PostgresObjectPlacement,
    PostgresState,
)
from rio.storage.postgres._dialer import PostgresConnection
from rio.testing.conformance import (
    FirstCommitTests,
    MembershipStorageTests,
    ObjectPlacementTests,
    StateStorageTests,
)
from rio.testing.conformance._state import held, single
from tests.storage.steps import ADA, load_nothing, waiting_for_a_lock

pytestmark = [pytest.mark.both_loops, pytest.mark.servers]


class TestPostgresMembershipStorage(MembershipStorageTests):
    @pytest.fixture
    async def membership(self, postgres_url: str) -> AsyncIterator[MembershipStorage]:
        async with PostgresMembershipStorage(postgres_url) as membership:
            yield membership


class TestPostgresObjectPlacement(ObjectPlacementTests):
    @pytest.fixture
    async def placement(self, postgres_url: str) -> AsyncIterator[ObjectPlacement]:
        async with PostgresObjectPlacement(postgres_url) as placement:
            yield placement


class TestPostgresState(StateStorageTests):
    @pytest.fixture
    async def state(self, postgres_url: str) -> AsyncIterator[StateStorage]:
        async with PostgresState(postgres_url) as state:
            yield state


class TestFirstCommitOnPostgres(FirstCommitTests):
    @pytest.fixture
    async def storage(self, postgres_url: str) -> AsyncIterator[Storage]:
        async with open_storage(postgres_url) as storage:
            yield storage


@pytest.fixture
async def database(postgres_url: str) -> PostgresDatabase:
    return PostgresDatabase(postgres_url)


@pytest.fixture
async def placement(database: PostgresDatabase) -> AsyncIterator[ObjectPlacement]:
    async with PostgresObjectPlacement(database) as placement:
        yield placement


@pytest.fixture
async def state(database: PostgresDatabase) -> AsyncIterator[StateStorage]:
    async with PostgresState(database) as state:
        yield state


@pytest.fixture
async def membership(database: PostgresDatabase) -> AsyncIterator[MembershipStorage]:
    async with PostgresMembershipStorage(database) as membership:
        yield membership


@pytest.fixture
async def elsewhere(postgres_url: str, placement: ObjectPlacement) -> AsyncIterator[Storage]:
    """The same tables as another node sees them."""
    async with open_storage(postgres_url) as storage:
        yield storage


# --- gathering


async def test_claims_that_wait_together_are_one_statement(
    database: PostgresDatabase, placement: ObjectPlacement
) -> None:
    claims = await asyncio.gather(
        *(placement.claim(ObjectId("T", str(number)), 1) for number in range(100))
    )
    assert len(set(claims)) == 100
    assert database.statistics() == (100, 1)


async def test_a_batch_has_a_limit(database: PostgresDatabase, placement: ObjectPlacement) -> None:
    await asyncio.gather(
        *(placement.claim(ObjectId("T", str(number)), 1) for number in range(1000))
    )
    assert database.statistics() == (1000, 4)


async def test_large_states_are_not_gathered_without_limit(
    database: PostgresDatabase, state: StateStorage
) -> None:
    objects = [ObjectId("T", str(number)) for number in range(12)]
    await asyncio.gather(*(load_nothing(state, object_id) for object_id in objects))
    await asyncio.gather(
        *(state.commit(object_id, 1, 0, single(b"x" * (1 << 20))) for object_id in objects)
    )
    assert database.statistics() == (24, 1 + 3)


async def test_a_save_is_on_its_way_to_the_server_one_turn_of_the_loop_later(
    state: StateStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load_nothing(state)
    await state.commit(ADA, 1, 0, single(b"x"))
    sent: list[str] = []

    async def fetch_in_time(connection: Any, sql: str, *parameters: Any) -> list[Any]:
        sent.append(sql)
        return await fetch(connection, sql, *parameters)

    fetch = PostgresConnection.fetch_in_time
    monkeypatch.setattr(PostgresConnection, "fetch_in_time", fetch_in_time)
    saving = asyncio.create_task(state.commit(ADA, 1, 1, single(b"y")))
    await asyncio.sleep(0)  # the task begins
    assert sent == []  # others may join
    await asyncio.sleep(0)
    assert len(sent) == 1
    assert await saving == 2
    assert len(sent) == 1


async def test_one_timer_watches_over_all_statements(
    database: PostgresDatabase, placement: ObjectPlacement
) -> None:
    pool = database._require_open().pool
    await placement.claim(ADA, 1)
    watch = pool._watch
    assert watch is not None
    for number in range(10):
        await placement.claim(ObjectId("T", str(number)), 1)
        assert pool._watch is watch
    await placement.close()
    assert watch.cancelled()


async def test_what_is_asked_of_one_key_is_done_in_that_order(
    placement: ObjectPlacement, state: StateStorage
) -> None:
    await load_nothing(state)
    saves = [state.commit(ADA, 1, version, single(b"x")) for version in range(10)]
    *versions, loaded = await asyncio.gather(*saves, state.load_object(ADA, 1))
    assert (versions, loaded) == ([*range(1, 11)], held(10, b"x"))
    first, _, second, _ = await asyncio.gather(
        *(ask(ADA, 1) for ask in (placement.claim, placement.release) * 2)
    )
    assert first.token < second.token


@pytest.mark.parametrize("position", [0, 5, 9])
async def test_an_operation_that_fails_fails_alone(
    placement: ObjectPlacement, position: int
) -> None:
    generations = [1] * 10
    generations[position] = 1 << 63
    objects = [ObjectId("T", str(number)) for number in range(10)]
    fates = await asyncio.gather(
        *map(placement.claim, objects, generations), return_exceptions=True
    )
    assert isinstance(fates.pop(position), asyncpg.DataError)
    failed = objects.pop(position)
    assert fates == [await placement.lookup(object_id) for object_id in objects]
    assert await placement.lookup(failed) is None


async def test_superseding_claims_of_one_batch_do_not_mix_up_their_tokens(
    placement: ObjectPlacement,
) -> None:
    ada, bob = ObjectId("T", "ada"), ObjectId("T", "bob")
    dead_ada, dead_bob = await placement.claim(ada, 1), await placement.claim(bob, 1)
    swapped = await asyncio.gather(
        placement.claim(ada, 2, supersede=dead_bob.token),
        placement.claim(bob, 2, supersede=dead_ada.token),
        placement.claim(ADA, 2),
    )
    assert swapped[:2] == [dead_ada, dead_bob]


# --- cancelling and closing


async def test_cancelling_at_any_moment_hurts_no_neighbour_and_no_connection(
    placement: ObjectPlacement, membership: MembershipStorage, session: Any
) -> None:
    for moment in range(40):
        object_id = ObjectId("T", str(moment))
        tasks = [asyncio.create_task(placement.claim(object_id, owner)) for owner in (1, 2, 3)]
        registering = asyncio.create_task(membership.register(f"h:{moment}"))
        for _ in range(moment):
            await asyncio.sleep(0)
        tasks[0].cancel()
        registering.cancel()
        _, second, third = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.wait([registering])
        assert second == third == await placement.lookup(object_id)
        assert (await membership.register(f"g:{moment}")).generation > moment
    open_transactions = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rio' AND state LIKE 'idle"
        " in transaction%'"
    )
    assert await session.fetchval(open_transactions) == 0


async def test_closing_finishes_what_waits(postgres_url: str) -> None:
    storage = open_storage(postgres_url)
    await storage.prepare()
    claims = [
        asyncio.create_task(storage.placement.claim(ObjectId("T", str(number)), 1))
        for number in range(1000)
    ]
    registering = asyncio.create_task(storage.membership.register("h:1"))
    await asyncio.sleep(0)
    await storage.close()
    assert len({claimed.token for claimed in await asyncio.gather(*claims)}) == 1000
    assert (await registering).snapshot.members[0].address == "h:1"
    with pytest.raises(StorageClosed):
        await storage.placement.claim(ADA, 1)


async def test_a_database_closes_with_its_last_role(database: PostgresDatabase) -> None:
    placement, state = PostgresObjectPlacement(database), PostgresState(database)
    await asyncio.gather(placement.prepare(), placement.prepare(), state.prepare())
    await placement.close()
    await load_nothing(state)
    await state.close()
    with pytest.raises(StorageClosed):
        database.statistics()


async def test_cancelling_prepare_at_any_moment_leaves_the_database_closed(
    postgres_url: str,
) -> None:
    for moment in range(0, 60, 3):
        database = PostgresDatabase(postgres_url)
        placement = PostgresObjectPlacement(database)
        preparing = asyncio.create_task(placement.prepare())
        for _ in range(moment):
            await asyncio.sleep(0)
        preparing.cancel()
        await asyncio.wait([preparing])
        await placement.close()
        async with placement:
            assert database.statistics() == (0, 0)
        with pytest.raises(StorageClosed):
            database.statistics()


# --- several nodes


async def test_nodes_that_prepare_a_new_schema_at_once_all_succeed(postgres_url: str) -> None:
    storages = [PostgresMembershipStorage(postgres_url) for _ in range(8)]
    await asyncio.gather(*(storage.prepare() for storage in storages))
    registered = await asyncio.gather(
        *(storage.register(f"h:{port}") for port, storage in enumerate(storages))
    )
    assert len({generation for generation, _ in registered}) == 8
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_of_nodes_that_register_one_address_at_once_the_last_lives(postgres_url: str) -> None:
    storages = [PostgresMembershipStorage(postgres_url) for _ in range(8)]
    await asyncio.gather(*(storage.prepare() for storage in storages))
    await asyncio.gather(*(storage.register("h:1") for storage in storages))
    snapshot = await storages[0].snapshot()
    assert [
        member.generation for member in snapshot.members if member.status != MemberStatus.DEAD
    ] == [snapshot.generation_high]
    await asyncio.gather(*(storage.close() for storage in storages))


async def test_a_claim_that_had_to_wait_brings_no_older_token(
    placement: ObjectPlacement, elsewhere: Storage, session: Any
) -> None:
    """Both claims draw a number before they wait.

    The row must end with the larger number, and each caller must get a different one.
    """
    await placement.claim(ADA, 1)
    transaction = session.transaction()
    await transaction.start()
    await session.execute("SELECT FROM rio_placement FOR UPDATE")
    claiming = [asyncio.create_task(placement.claim(ADA, 1))]
    await waiting_for_a_lock(session, 1)
    claiming.append(asyncio.create_task(elsewhere.placement.claim(ADA, 1)))
    await waiting_for_a_lock(session, 2)
    await transaction.rollback()
    tokens = {claimed.token for claimed in await asyncio.gather(*claiming)}
    standing = await placement.lookup(ADA)
    assert standing is not None
    assert len(tokens) == 2
    assert standing.token == max(tokens)


async def test_tokens_grow_when_rows_are_deleted(placement: ObjectPlacement, session: Any) -> None:
    claimed = await placement.claim(ADA, 1)
    await session.execute("DELETE FROM rio_placement")
    assert (await placement.claim(ADA, 1)).token > claimed.token


# --- hearing of changes. A wait that heard nothing would last an hour.


async def test_changes_of_any_kind_are_heard_of_by_others(
    membership: MembershipStorage, postgres_url: str
) -> None:
    async with PostgresMembershipStorage(postgres_url) as other:
        one = (await other.register("h:1")).generation
        for change in (
            lambda: other.register("h:2"),
            lambda: other.set_status(one, MemberStatus.JOINING, MemberStatus.ACTIVE),
            lambda: other.set_status(one, MemberStatus.ACTIVE, MemberStatus.DEAD),
            lambda: other.purge(one),
        ):
            version = (await membership.snapshot()).version
            waiting = asyncio.create_task(newer(membership, version))
            await asyncio.sleep(0)
            await change()
            assert (await waiting).version > version


async def test_a_change_that_was_heard_of_before_is_not_waited_for(
    membership: MembershipStorage,
) -> None:
    generation, snapshot = await membership.register("h:1")
    await newer(membership, 0)
    await membership.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE)
    await newer(membership, snapshot.version)
    await membership.wait_for_change(snapshot.version, 3600)


async def test_one_who_listens_again_after_a_lost_connection_looks_at_once(
    membership: MembershipStorage, postgres_url: str, session: Any
) -> None:
    version = (await membership.register("h:1")).snapshot.version
    await newer(membership, 0)
    await session.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid"
        " != pg_backend_pid()"
    )
    async with PostgresMembershipStorage(postgres_url) as other:
        await other.register("h:2")
    assert len((await newer(membership, version)).members) == 2


async def test_waiting_ends_with_its_time_and_with_the_storage(
    membership: MembershipStorage,
) -> None:
    await membership.wait_for_change(10, 0.01)
    waiting = asyncio.create_task(newer(membership, 10))
    await asyncio.sleep(0)
    await membership.close()
    with pytest.raises(StorageClosed):
        await waiting


async def test_a_node_hears_of_others_long_before_it_polls(postgres_url: str) -> None:
    """The waiter polls every ten minutes here, and would hear nothing before."""
    config = ClusterConfig(
        renew_interval=1.0, poll_interval=600.0, lease_local=1800.0, lease_evict=2400.0, gossip=None
    )
    async with (
        PostgresMembershipStorage(postgres_url) as here,
        PostgresMembershipStorage(postgres_url) as there,
    ):
        first, second = (
            PeerToPeerClusterProvider(here, config),
            PeerToPeerClusterProvider(there, config),
        )
        snapshots: asyncio.Queue[MembershipSnapshot] = asyncio.Queue()
        first.on_snapshot = snapshots.put_nowait
        await first.join("h:1")
        serving = asyncio.create_task(first.serve())
        await second.join("h:2")
        while len((await snapshots.get()).active) < 2:
            pass
        await second.leave()
        while len((await snapshots.get()).active) > 1:
            pass
        await first.leave()
        await serving


async def newer(membership: MembershipStorage, version: int) -> MembershipSnapshot:
    """Wait for a hint and read, as a node does, until the snapshot is above a version."""
    while (snapshot := await membership.snapshot()).version <= version:
        await membership.wait_for_change(version, 3600)
    return snapshot
