"""A row that ``rio`` cannot have written ends as an error that names it, on every back end.

What the errors of a driver mean is tested with each back end; here the database works, and what it
holds is wrong: a key was evicted, or somebody has changed a row.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple

import asyncpg
import msgspec
import pytest
from redis.asyncio import Redis

import rio
from rio.contracts.membership import MemberStatus, Vote, decode_votes
from rio.errors import RowCorrupt, SchemaMismatch, StateCorrupt
from rio.identity import ObjectId
from rio.storage import Storage, open_storage, read_schemas
from rio.storage._rows import votes_of
from rio.storage.redis._schema import key_of
from rio.testing.conformance._state import NOTHING, single
from tests.server.harness import until
from tests.storage.steps import ADA, load_nothing

pytestmark = [pytest.mark.servers]

Call = Callable[[Storage, int], Awaitable[Any]]
CALLS: dict[str, Call] = {
    "snapshot": lambda storage, _: storage.membership.snapshot(),
    "register": lambda storage, _: storage.membership.register("h:2"),
    "renew": lambda storage, generation: storage.membership.renew(generation),
    "set_status": lambda storage, generation: storage.membership.set_status(
        generation, MemberStatus.CONDEMNED, MemberStatus.DEAD
    ),
    "vote": lambda storage, generation: storage.membership.vote(generation, Vote(generation, 2.0)),
    "read_manifests": lambda storage, generation: storage.membership.read_manifests([generation]),
    "change_cluster_id": lambda storage, _: storage.membership.change_cluster_id("new"),
    "adopt": lambda storage, _: storage.membership.adopt("new"),
    "lookup": lambda storage, _: storage.placement.lookup(ADA),
    "claim": lambda storage, _: storage.placement.claim(ADA, 7),
    "owned_by": lambda storage, generation: storage.placement.owned_by(generation),
    "load_object": lambda storage, _: storage.state.load_object(ADA, 1 << 60),
    "read_object": lambda storage, _: storage.state.read_object(ADA),
    "list_objects": lambda storage, _: storage.state.list_objects("Account"),
    "read_schemas": lambda storage, _: read_schemas(storage),
}


class Damage(NamedTuple):
    """What somebody did to a database, what is wrong with it then, and who meets it."""

    done: str
    """A statement, or a command; ``GEN`` stands for the generation of the member."""
    named: str
    """What the error names, a regular expression."""
    met_by: str
    """Names of calls."""


MEMBER = r"row of member GEN in rio_member"
CLUSTER = "rio_cluster"
PLACEMENT = r"row of Account/ada in rio_placement"
ALL_MEMBERS = "snapshot register set_status change_cluster_id"
ON_SQLITE = [
    Damage("UPDATE rio_member SET address = 7 || x'ff'", "address", ALL_MEMBERS),
    Damage("UPDATE rio_member SET address = x'00'", MEMBER, ALL_MEMBERS),
    Damage("UPDATE rio_member SET status = 'good'", MEMBER, "snapshot set_status register"),
    Damage("UPDATE rio_member SET status = 99", MEMBER, "snapshot set_status"),
    Damage("UPDATE rio_member SET lease_counter = 'x'", MEMBER, ALL_MEMBERS),
    Damage("UPDATE rio_member SET metadata = 'text'", MEMBER, ALL_MEMBERS),
    Damage("UPDATE rio_member SET votes = x'ff'", MEMBER, f"{ALL_MEMBERS} vote"),
    Damage("UPDATE rio_member SET votes = 3", MEMBER, f"{ALL_MEMBERS} vote"),
    Damage("UPDATE rio_member SET manifest_digest = 1.5", MEMBER, ALL_MEMBERS),
    Damage("UPDATE rio_member SET manifest = 5", MEMBER, "read_manifests"),
    Damage("DELETE FROM rio_cluster", CLUSTER, "snapshot register adopt renew"),
    Damage("UPDATE rio_cluster SET schema_version = 'one'", CLUSTER, "register read_schemas"),
    Damage("UPDATE rio_cluster SET snapshot_version = 'x'", CLUSTER, "snapshot"),
    Damage("UPDATE rio_cluster SET generation_high = 'x'", CLUSTER, "snapshot"),
    Damage("UPDATE rio_cluster SET cluster_id = x'00'", CLUSTER, "snapshot renew"),
    Damage("UPDATE rio_cluster SET settings = 1", CLUSTER, "snapshot register"),
    Damage("UPDATE rio_placement SET token = 'x'", PLACEMENT, "lookup claim"),
    Damage("UPDATE rio_placement SET generation = 'x'", PLACEMENT, "lookup claim"),
    Damage("UPDATE rio_placement SET id = x'ff'", "row of rio_placement", "owned_by"),
    Damage("UPDATE rio_object SET version = 'x'", "Account/ada", "load_object read_object"),
    Damage("UPDATE rio_object SET schema = 'x'", "Account/ada", "load_object read_object"),
    Damage("UPDATE rio_object SET state_name = x'ff'", "Account/ada", "load_object read_object"),
    Damage("UPDATE rio_object SET id = x'ff'", "row of rio_object", "list_objects"),
]
ON_POSTGRES = [
    Damage("UPDATE rio_member SET status = 99", MEMBER, "snapshot set_status"),
    Damage("UPDATE rio_member SET votes = '\\xff'", MEMBER, f"{ALL_MEMBERS} vote"),
    Damage(
        "ALTER TABLE rio_member ALTER address DROP NOT NULL; UPDATE rio_member SET address = NULL",
        MEMBER,
        f"{ALL_MEMBERS}",
    ),
    Damage("DELETE FROM rio_cluster", CLUSTER, "snapshot register adopt renew"),
    Damage(
        "ALTER TABLE rio_cluster ALTER settings DROP NOT NULL;"
        " UPDATE rio_cluster SET settings = NULL",
        CLUSTER,
        "snapshot register",
    ),
    Damage(
        "ALTER TABLE rio_placement ALTER token DROP NOT NULL;"
        " UPDATE rio_placement SET token = NULL",
        PLACEMENT,
        "lookup claim",
    ),
    Damage("UPDATE rio_placement SET id = '\\xff'", "row of rio_placement", "owned_by"),
    Damage("UPDATE rio_object SET id = '\\xff'", "row of rio_object", "list_objects"),
    Damage("UPDATE rio_object SET state_name = '\\xff'", "Account/ada", "load_object read_object"),
]
FIELDS = r"field GEN of test_\d+:{test_\d+}:membership:{address"
ON_REDIS = [
    *(
        Damage(f"DEL membership:{column}", f"membership:{column} has no field GEN", calls)
        for column, calls in {
            "address": ALL_MEMBERS,
            "lease": ALL_MEMBERS,
            "metadata": ALL_MEMBERS,
            "votes": f"{ALL_MEMBERS} vote",
            "digest": ALL_MEMBERS,
        }.items()
    ),
    Damage("HDEL membership:address GEN", "membership:address has no field GEN", ALL_MEMBERS),
    Damage("HSET membership:address GEN \xff", FIELDS, ALL_MEMBERS),
    Damage("HSET membership:status GEN good", FIELDS, "snapshot"),
    Damage("HSET membership:status GEN good", "membership:status, field GEN", "renew vote"),
    Damage("HSET membership:status GEN good", "membership:status, field GEN", "register"),
    Damage("HSET membership:status GEN 99", FIELDS, "snapshot set_status"),
    Damage("HSET membership:lease GEN x", FIELDS, "snapshot set_status"),
    Damage("HSET membership:lease GEN x", "membership:lease, field GEN", "renew"),
    Damage("HSET membership:votes GEN x", FIELDS, f"{ALL_MEMBERS} vote"),
    Damage("HDEL membership:cluster id", "membership:cluster", "snapshot renew"),
    Damage("HSET membership:cluster id \xff", "membership:cluster", "snapshot renew register"),
    Damage("HSET membership:cluster version x", "membership:cluster", "snapshot register"),
    Damage("HSET membership:cluster generation x", "membership:cluster", "snapshot register"),
    Damage("HSET database:schema adopted_by \xff", "adopted_by of test_", "adopt"),
    Damage("HSET database:schema version x", "version b'x'", "register read_schemas"),
    Damage("HSET placement:objects 7:Accountada x", "Account/ada in test_", "lookup claim"),
    Damage("HSET placement:objects 7:Accountada 1:", "Account/ada in test_", "lookup claim"),
    Damage("HSET placement:objects  x", "placement:objects, field", "claim"),
    Damage("ZADD placement:owned GEN nobody", "nobody' in test_", "owned_by"),
    Damage("ZADD state:ids 0 7:Account\xff", "Account.* in test_", "list_objects"),
    Damage("HSET state:object:7:Accountada token x", "Account/ada", "load_object"),
    Damage("HSET state:object:7:Accountada version x", "Account/ada", "load_object read_object"),
    Damage("HSET state:object:7:Accountada :\xff 1:x", "Account/ada", "load_object read_object"),
]


class Database:
    """A database with one member, which owns an object that has a state."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def fill(self, storage: Storage) -> int:
        generation = (await storage.membership.register("h:1")).generation
        await storage.membership.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE)
        await storage.membership.vote(generation, Vote(generation, 1.0))
        await storage.membership.set_manifest(generation, b"manifest")
        token = (await storage.placement.claim(ADA, generation)).token
        await load_nothing(storage.state, token=token)
        await storage.state.commit(ADA, token, 0, single(b"x"))
        return generation

    async def do(self, done: str) -> None:
        if self.url.startswith("sqlite"):
            connection = sqlite3.connect(self.url.removeprefix("sqlite:///"))
            connection.executescript(f"PRAGMA ignore_check_constraints = 1; {done}")
            connection.close()
        elif self.url.startswith("postgres"):
            connection = await asyncpg.connect(self.url)
            await connection.execute(done)
            await connection.close()
        else:
            await self._do_in_redis(done)

    async def _do_in_redis(self, done: str) -> None:
        server, _, namespace = self.url.partition("?namespace=")
        command, key, *words = done.split(" ")
        async with Redis.from_url(server) as redis:
            if command == "RENAME":
                words = [key_of(namespace, words[0]).decode()]
            encoded = (word.encode("latin-1") for word in words)
            await redis.execute_command(command, key_of(namespace, key), *encoded)


CASES = [
    pytest.param(kind, damage, call, id=f"{kind}-{damage.done.encode()!r}-{call}")
    for kind, damages in {
        "sqlite": ON_SQLITE,
        "postgres": ON_POSTGRES,
        "redis": ON_REDIS,
    }.items()
    for damage in damages
    for call in damage.met_by.split()
]


@pytest.fixture
def database(request: pytest.FixtureRequest, kind: str) -> Database:
    return Database(request.getfixturevalue(f"{kind}_url"))


@pytest.mark.parametrize(("kind", "damage", "call"), CASES)
async def test_a_damaged_row_is_an_error_that_names_it(
    database: Database, damage: Damage, call: str
) -> None:
    async with open_storage(database.url) as storage:
        generation = await database.fill(storage)
        await database.do(damage.done.replace("GEN", str(generation)))
        named = damage.named.replace("GEN", str(generation))
        with pytest.raises((RowCorrupt, StateCorrupt, SchemaMismatch), match=named):
            await CALLS[call](storage, generation)


async def test_a_damaged_token_of_a_state_hurts_no_neighbour(redis_url: str) -> None:
    database = Database(redis_url)
    async with open_storage(redis_url) as storage:
        await database.fill(storage)
        await database.do("HSET state:object:7:Accountada token x")
        damaged, nothing = await asyncio.gather(
            storage.state.load_object(ADA, 1),
            storage.state.load_object(ObjectId("Account", "bob"), 1),
            return_exceptions=True,
        )
    assert isinstance(damaged, StateCorrupt)
    assert nothing == NOTHING


async def test_thousands_of_digits_are_an_error_that_names_their_row(redis_url: str) -> None:
    database = Database(redis_url)
    async with open_storage(redis_url) as storage:
        await database.fill(storage)
        await database.do(f"HSET placement:objects 7:Accountada 1:{'9' * 5000}")
        with pytest.raises(RowCorrupt, match="Account/ada in test_"):
            await storage.placement.lookup(ADA)


VOTES_THAT_ARE_NONE = [
    b"",
    b"\xc1",
    b"\x91\x82\xa5voter\xa1\xff\xa2at\x01",
    b"\x91\x81\xa4more" + b"\x91" * 5000 + b"\xc0",
]


@pytest.mark.parametrize("votes", VOTES_THAT_ARE_NONE)
def test_votes_that_are_none_are_one_kind_of_error(votes: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_votes(votes)
    with pytest.raises(RowCorrupt, match="row 7 is damaged"):
        votes_of("row 7", votes)


async def test_a_status_of_a_newer_rio_is_no_damage(redis_url: str) -> None:
    async with open_storage(redis_url) as storage:
        generation = (await storage.membership.register("h:1")).generation
        await Database(redis_url).do(f"HSET membership:status {generation} -7")
        [member] = (await storage.membership.snapshot()).members
    assert (member.status.name, member.status.terminal) == ("STATUS_-7", False)


# --- under servers and clients --------------------------------------------------------------------


class Greet(rio.Message):
    name: str


class Greeter(rio.ServiceObject):
    @rio.handler
    async def greet(self, message: Greet) -> str:
        return f"hello {message.name}"


VOTES = "UPDATE rio_member SET votes ="
UNDER_SERVERS = {
    "sqlite": (f"{VOTES} x'ff'", f"{VOTES} x'90'"),
    "postgres": (f"{VOTES} '\\xff'", f"{VOTES} '\\x90'"),
    "redis": ("RENAME membership:address lost", "RENAME lost membership:address"),
}


@pytest.mark.parametrize("kind", UNDER_SERVERS)
async def test_a_server_and_its_clients_outlive_a_damaged_membership(
    database: Database, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rio.cluster")
    damage, repair = UNDER_SERVERS[kind]
    server = rio.Server(rio.Registry(Greeter), storage=database.url, cluster="fast")
    async with server, rio.Client(database.url) as client:
        assert await client.send(Greeter, "a", Greet(name="ada")) == "hello ada"
        await database.do(damage)
        await until(lambda: "reading the membership failed" in caplog.text)
        assert "RowCorrupt" in caplog.text
        assert await client.send(Greeter, "b", Greet(name="bob")) == "hello bob"
        with pytest.raises(RowCorrupt, match=r"votes|has no field"):
            await rio.Client(database.url).start()
        await database.do(repair)
        await until(lambda: "reading the membership works again" in caplog.text)
        async with rio.Client(database.url) as new_client:
            assert await new_client.send(Greeter, "a", Greet(name="eve")) == "hello eve"
