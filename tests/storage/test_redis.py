"""The storages on Redis (Valkey) keep the contracts.

The other tests are about what Redis adds: gathering, keys, forgetting, and replies that are lost.
"""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

import rio
from rio.contracts.membership import MembershipStorage, MemberStatus, Vote
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import (
    ConfigurationError,
    SchemaMismatch,
    StateCorrupt,
    StorageClosed,
    StorageUnavailable,
)
from rio.identity import ObjectId
from rio.storage import Storage, _connector, open_storage
from rio.storage.redis import (
    RedisDatabase,
    RedisMembershipStorage,
    RedisObjectPlacement,
    RedisState,
)
from rio.storage.redis import database as redis_database
from rio.storage.redis._dialer import RedisDialer
from rio.storage.redis._lane import RedisLane
from rio.storage.redis._schema import key_of, schema_key
from rio.testing.conformance import (
    FirstCommitTests,
    MembershipStorageTests,
    ObjectPlacementTests,
    StateStorageTests,
)
from rio.testing.conformance._state import held, single
from rio.testing.proxy import Proxy
from tests.servers import RedisServer, Server, free_port
from tests.storage.steps import ADA, load_nothing

pytestmark = [pytest.mark.both_loops, pytest.mark.servers]


class TestRedisMembershipStorage(MembershipStorageTests):
    @pytest.fixture
    async def membership(self, redis_url: str) -> AsyncIterator[MembershipStorage]:
        async with RedisMembershipStorage(redis_url) as membership:
            yield membership


class TestRedisObjectPlacement(ObjectPlacementTests):
    @pytest.fixture
    async def placement(self, redis_url: str) -> AsyncIterator[ObjectPlacement]:
        async with RedisObjectPlacement(redis_url) as placement:
            yield placement


class TestRedisState(StateStorageTests):
    @pytest.fixture
    async def state(self, redis_url: str) -> AsyncIterator[StateStorage]:
        async with RedisState(redis_url) as state:
            yield state


class TestFirstCommitOnRedis(FirstCommitTests):
    @pytest.fixture
    async def storage(self, redis_url: str) -> AsyncIterator[Storage]:
        async with open_storage(redis_url) as storage:
            yield storage


@pytest.fixture
async def database(redis_url: str) -> RedisDatabase:
    return RedisDatabase.from_url(redis_url)


@pytest.fixture
async def placement(database: RedisDatabase) -> AsyncIterator[ObjectPlacement]:
    async with RedisObjectPlacement(database) as placement:
        yield placement


@pytest.fixture
async def state(database: RedisDatabase) -> AsyncIterator[StateStorage]:
    async with RedisState(database) as state:
        yield state


@pytest.fixture
async def membership(database: RedisDatabase) -> AsyncIterator[MembershipStorage]:
    async with RedisMembershipStorage(database) as membership:
        yield membership


@pytest.fixture
async def redis(redis_server: Server) -> AsyncIterator[Any]:
    """Another client's connection."""
    async with Redis.from_url(redis_server.url) as redis:
        yield redis


# --- gathering


async def test_claims_that_wait_together_are_one_script(
    database: RedisDatabase, placement: ObjectPlacement
) -> None:
    claims = await asyncio.gather(
        *(placement.claim(ObjectId("T", str(number)), 1) for number in range(100))
    )
    assert len(set(claims)) == 100
    assert database.statistics() == (100, 1)


async def test_a_batch_has_a_limit(database: RedisDatabase, placement: ObjectPlacement) -> None:
    await asyncio.gather(*(placement.claim(ADA, 1) for _ in range(1500)))
    assert database.statistics() == (1500, 3)


async def test_what_is_asked_of_one_key_is_done_in_that_order(
    placement: ObjectPlacement, state: StateStorage
) -> None:
    await load_nothing(state)
    saves = [state.commit(ADA, 1, version, single(b"x")) for version in range(10)]
    *versions, loaded = await asyncio.gather(*saves, state.load_object(ADA, 1))
    assert (versions, loaded) == ([*range(1, 11)], held(10, b"x"))


async def test_scripts_that_the_server_forgot_are_sent_again(
    redis: Any, placement: ObjectPlacement, state: StateStorage, membership: MembershipStorage
) -> None:
    for number in range(3):
        await redis.script_flush()
        claims = await asyncio.gather(
            *(placement.claim(ObjectId("T", str(n)), 1) for n in range(10))
        )
        assert len(set(claims)) == 10
        await load_nothing(state, token=number)
        assert (await membership.register("h:1")).snapshot.active == ()


# --- cancelling and closing


async def test_cancelling_at_any_moment_hurts_no_neighbour(
    placement: ObjectPlacement, membership: MembershipStorage
) -> None:
    registered = 0
    for moment in range(60):
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
        generation, snapshot = await membership.register(f"g:{moment}")
        assert registered < generation == snapshot.generation_high
        registered = generation


async def test_closing_finishes_what_waits(redis_url: str) -> None:
    storage = open_storage(redis_url)
    await storage.prepare()
    claims = [
        asyncio.create_task(storage.placement.claim(ObjectId("T", str(number)), 1))
        for number in range(2000)
    ]
    await asyncio.sleep(0)
    await storage.close()
    assert len({claimed.token for claimed in await asyncio.gather(*claims)}) == 2000
    with pytest.raises(StorageClosed):
        await storage.placement.claim(ADA, 1)


async def test_cancelling_prepare_at_any_moment_leaves_the_database_closed(redis_url: str) -> None:
    for moment in range(0, 40, 2):
        database = RedisDatabase.from_url(redis_url)
        placement = RedisObjectPlacement(database)
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


# --- keys


async def test_the_keys_of_a_table_are_on_one_server_of_a_cluster(
    redis: Any,
    redis_url: str,
    placement: ObjectPlacement,
    state: StateStorage,
    membership: MembershipStorage,
) -> None:
    """Each key has one hash tag. It begins with the namespace, and nothing else is touched."""
    await membership.register("h:1")
    for number in range(8):
        object_id = ObjectId("T}{", f"}}{number}")
        await placement.claim(object_id, 1)
        await state.commit(object_id, 1, 0, single(b"x"))
    namespace = redis_url.rpartition("=")[2]
    keys = [key.decode() for key in await redis.keys(f"*{namespace}[:}}]*")]
    assert {key.partition(":")[0] for key in keys} == {namespace}
    tags = {key[key.index("{") + 1 : key.index("}")] for key in keys}
    assert tags == {namespace}


async def test_every_script_runs_on_a_redis_cluster() -> None:
    """A Redis cluster refuses a script whose keys are not all in one slot."""
    with RedisServer(**{"cluster-enabled": "yes", "cluster-port": str(free_port())}) as server:
        async with Redis.from_url(server.url) as redis:
            await redis.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            state = b""
            while b"cluster_state:ok" not in state:
                state = await redis.execute_command("CLUSTER", "INFO")
        async with open_storage(server.url) as storage:
            voter, target = [
                (await storage.membership.register(f"h:{port}")).generation for port in range(2)
            ]
            assert (
                await storage.membership.set_status(
                    voter, MemberStatus.JOINING, MemberStatus.ACTIVE
                )
            ).applied
            assert (await storage.membership.vote(target, Vote(voter, 1.0))).applied
            assert (
                await storage.membership.set_status(target, MemberStatus.JOINING, MemberStatus.DEAD)
            ).applied
            assert await storage.membership.renew(voter)
            assert await storage.membership.purge(target)
            claims = await asyncio.gather(
                *(
                    storage.placement.claim(ObjectId("T", str(number)), voter)
                    for number in range(100)
                )
            )
            assert len(await storage.placement.owned_by(voter)) == 100
            assert await storage.placement.release(ObjectId("T", "7"), claims[7].token)
            assert await storage.placement.lookup(ObjectId("T", "8")) == claims[8]
            for number in range(20):
                object_id = ObjectId("T", str(number))
                if number != 7:
                    token = claims[number].token
                    await load_nothing(storage.state, object_id, token)
                    assert await storage.state.commit(object_id, token, 0, single(b"x")) == 1
            assert len(await storage.state.list_objects("T")) == 19
            assert await storage.placement.release_all(voter) == 99


async def test_namespaces_are_apart(redis_server: Server) -> None:
    async with RedisObjectPlacement(f"{redis_server.url}?namespace=one") as one:
        await one.claim(ADA, 1)
        async with RedisObjectPlacement(f"{redis_server.url}?namespace=two") as two:
            assert await two.lookup(ADA) is None


# --- what a server forgets


async def test_numbers_grow_even_if_everything_is_lost() -> None:
    with RedisServer() as server:
        async with open_storage(server.url) as storage, Redis.from_url(server.url) as redis:
            tokens, generations, versions = [], [], []
            for _ in range(5):
                generation, snapshot = await storage.membership.register("h:1")
                tokens.append((await storage.placement.claim(ADA, 1)).token)
                generations.append(generation)
                versions.append(snapshot.version)
                await redis.flushall()
                assert await storage.membership.renew(generation) is None
    for numbers in tokens, generations, versions:
        assert numbers == sorted(set(numbers))


class Nothing(rio.ServiceObject): ...


@pytest.mark.parametrize(
    ("preset", "accepted"), [("strict", False), ("fast", True), ("local", True)]
)
async def test_a_server_without_an_append_only_file_is_refused_in_the_strict_preset(
    preset: str, accepted: bool
) -> None:
    with RedisServer(appendonly="no") as server:
        async with open_storage(server.url) as storage:
            for role in storage.membership, storage.placement, storage.state:
                assert "appendonly yes" in role.why_not_durable
        node = rio.Server(rio.Registry(Nothing), storage=server.url, cluster=preset)
        if accepted:
            async with node:
                pass
        else:
            with pytest.raises(
                ConfigurationError, match=r"forget what they had saved\. Set 'appendonly yes'"
            ):
                await node.__aenter__()


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-lfu", "allkeys-random"])
async def test_a_server_that_evicts_keys_is_refused_in_the_strict_preset(policy: str) -> None:
    with RedisServer(**{"maxmemory-policy": policy}) as server:
        node = rio.Server(rio.Registry(Nothing), storage=server.url, cluster="strict")
        with pytest.raises(ConfigurationError, match=r"Set 'maxmemory-policy noeviction'"):
            await node.__aenter__()
        async with open_storage(f"{server.url}?durable=no") as storage:
            assert storage.state.why_not_durable == ""


@pytest.mark.parametrize(
    ("setting", "value", "safe"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "yes")],
)
async def test_a_server_that_begins_to_forget_is_noticed_while_it_runs(
    redis: Any,
    redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    setting: str,
    value: str,
    safe: str,
) -> None:
    monkeypatch.setattr(redis_database, "RECHECK_INTERVAL", 0.0)
    async with open_storage(redis_url) as storage:
        generation = (await storage.membership.register("h:1")).generation
        await redis.config_set(setting, value)
        try:
            while not storage.state.why_not_durable:
                await storage.membership.renew(generation)
        finally:
            await redis.config_set(setting, safe)
        while storage.state.why_not_durable:
            await storage.membership.renew(generation)
    assert caplog.text.count("the setting was changed") == 1


@pytest.mark.parametrize("policy", ["noeviction", "volatile-lru"])
async def test_a_server_that_evicts_nothing_of_ours_is_accepted(policy: str) -> None:
    with RedisServer(**{"maxmemory-policy": policy}) as server:
        async with open_storage(f"{server.url}?durable=yes"):
            pass


async def test_a_url_can_accept_a_server_that_forgets_or_refuse_it_for_all() -> None:
    with RedisServer(appendonly="no") as server:
        async with open_storage(f"{server.url}?durable=no") as storage:
            assert storage.state.why_not_durable == ""
            await storage.placement.claim(ADA, 1)
        with pytest.raises(ConfigurationError, match="appendonly yes"):
            await open_storage(f"{server.url}?durable=yes").prepare()


async def test_a_server_with_an_append_only_file_is_accepted_by_all(redis_url: str) -> None:
    async with open_storage(f"{redis_url}&durable=yes") as storage:
        assert storage.state.why_not_durable == ""


# --- servers that cannot be used


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("sqlite:///x", "no URL of Redis"),
        ("redis://h/0?durable=perhaps", "yes or no"),
        ("redis://h/0?namespace={x}", "braces"),
        ("redis://h/0?namespace=", "braces"),
        ("redis://h:port/0", "port"),
        ("redis://h/0?socket_connect_timeout=soon", "socket_connect_timeout"),
        ("redis://h/0?decode_responses=yes", "unknown option decode_responses; there are"),
        ("redis://h/0?sokcet_timeout=1", "unknown option sokcet_timeout; there are"),
        ("redis://h/0?ssl_ca_certs=/missing", "rediss://"),
        ("rediss://h/0?ssl_cert_reqs=perhaps", "perhaps"),
        ("rediss://h/0?ssl_ca_certs=/missing", "No such file"),
    ],
)
async def test_a_url_that_cannot_work_is_refused(url: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        RedisState(url)


async def test_a_login_that_is_refused_says_so_and_never_shows_the_password() -> None:
    with RedisServer(requirepass="open") as server:
        for login, text in ("", "password"), (":s3cret@", "refused the login"):
            database = RedisDatabase.from_url(server.url.replace("//", f"//{login}"))
            with pytest.raises(StorageUnavailable, match=text) as failed:
                await RedisState(database).prepare()
            assert "s3cret" not in f"{database!r} {failed.value} {failed.value.__cause__}"
        async with RedisState(server.url.replace("//", "//:open@")) as state:
            await load_nothing(state)


def certificate_of_nobody(folder: Path) -> ssl.SSLContext:
    """A certificate that no authority has signed."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=nobody"),
            *("-keyout", key, "-out", certificate),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_a_server_that_cannot_be_reached_says_why(
    unused_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.05)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)  # the broken handshake
    server = await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=certificate_of_nobody(tmp_path)
    )
    tls = server.sockets[0].getsockname()[1]
    async with server:
        for url, text in (
            (f"redis://127.0.0.1:{unused_port}/0", "Connect call failed|Connection refused"),
            ("redis://no-such-host.invalid/0", "no-such-host.invalid.*[nN]ame|unknown node"),
            (f"rediss://127.0.0.1:{tls}/0", "certificate verify failed"),
        ):
            with pytest.raises(StorageUnavailable, match=text):
                await RedisState(url).prepare()


async def test_a_server_that_is_not_there_is_unavailable_and_not_waited_for_again(
    unused_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_connector, "WAIT_TIMEOUT", 0.05)
    lane = RedisLane(RedisDialer(f"redis://127.0.0.1:{unused_port}/0"))
    with pytest.raises(StorageUnavailable, match="cannot be reached"):
        await lane.ask(b"PING")
    with pytest.raises(StorageUnavailable, match="a moment ago"):
        await lane.ask(b"PING")


async def test_a_namespace_of_another_version_is_refused(redis: Any, redis_url: str) -> None:
    namespace = redis_url.rpartition("=")[2]
    await redis.hset(schema_key(namespace), "version", "99")
    with pytest.raises(SchemaMismatch, match="schema 99"):
        await RedisState(redis_url).prepare()


async def test_keys_and_states_that_are_not_ours_are_told_apart_and_left_alone(
    redis: Any, redis_url: str, state: StateStorage
) -> None:
    namespace = redis_url.rpartition("=")[2]
    key = key_of(namespace, "state:object:7:Accountada")
    await redis.set(key, "x")
    with pytest.raises(SchemaMismatch, match="something else"):
        await state.load_object(ADA, 1)
    assert await redis.get(key) == b"x"
    await redis.delete(key)
    await redis.hset(key, mapping={"token": "1", "version": "many", ":s": "x"})
    with pytest.raises(StateCorrupt, match="many"):
        await state.load_object(ADA, 1)
    await redis.hset(key, mapping={"version": "1"})
    with pytest.raises(StateCorrupt, match="x"):
        await state.load_object(ADA, 1)
    assert await redis.hget(key, ":s") == b"x"


async def test_a_key_that_is_not_ours_hurts_no_neighbour(
    redis: Any, redis_url: str, state: StateStorage
) -> None:
    namespace = redis_url.rpartition("=")[2]
    await redis.set(key_of(namespace, "state:object:7:Accountada"), "x")
    for operation in (
        lambda object_id: state.load_object(object_id, 1),
        lambda object_id: state.commit(object_id, 1, 0, single(b"x")),
    ):
        objects = [ObjectId("T", "1"), ADA, ObjectId("T", "2")]
        first, ours, second = await asyncio.gather(*map(operation, objects), return_exceptions=True)
        assert isinstance(ours, SchemaMismatch)
        assert first == second
        assert not isinstance(first, Exception)


async def test_a_full_server_is_unavailable_and_nothing_is_written() -> None:
    with RedisServer() as server:
        async with RedisState(server.url) as state, Redis.from_url(server.url) as redis:
            await load_nothing(state)
            await redis.config_set("maxmemory", "1")
            with pytest.raises(StorageUnavailable, match="memory is full"):
                await state.commit(ADA, 1, 0, single(b"x"))
            await redis.config_set("maxmemory", "0")
            await load_nothing(state)


async def test_a_replica_is_unavailable_and_looked_up_again() -> None:
    with RedisServer() as server:
        async with RedisState(server.url) as state, Redis.from_url(server.url) as redis:
            await load_nothing(state)
            await redis.replicaof("127.0.0.1", "1")
            with pytest.raises(StorageUnavailable, match="replica"):
                await state.commit(ADA, 1, 0, single(b"x"))
            await redis.replicaof("NO", "ONE")
            assert await state.commit(ADA, 1, 0, single(b"x")) == 1


# --- lost replies


async def test_after_a_lost_reply_the_repeated_claim_recognises_its_owner(
    redis_server: Server, redis_url: str
) -> None:
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        behind = redis_url.replace(f":{redis_server.port}", f":{proxy.port}")
        async with RedisObjectPlacement(behind) as placement:
            await placement.lookup(
                ADA
            )  # the connection is up now, and the next reply is that of the claim
            for number in range(500):
                object_id = ObjectId("T", str(number))
                proxy.lose_replies(1)
                with pytest.raises(StorageUnavailable, match="it may have been done or not"):
                    await placement.claim(object_id, 1)
                applied = await placement.lookup(object_id)
                repeated = await placement.claim(object_id, 1)
                assert applied is not None
                assert (applied.generation, repeated.generation) == (1, 1)
                assert repeated.token > applied.token


async def test_nothing_is_sent_twice_after_a_lost_reply(
    redis_server: Server, redis_url: str
) -> None:
    async with Proxy("127.0.0.1", redis_server.port) as proxy:
        behind = redis_url.replace(f":{redis_server.port}", f":{proxy.port}")
        async with RedisMembershipStorage(behind) as membership:
            generation = (await membership.register("h:1")).generation
            assert await membership.renew(generation)
            for count in range(1, 51):
                proxy.lose_replies(1)
                with pytest.raises(StorageUnavailable):
                    await membership.renew(generation)
                member = (await membership.snapshot()).find(generation)
                assert member is not None
                assert member.lease_counter == 2 * count
                assert await membership.renew(generation)
