"""What can go wrong with rio-rs and must not here: the cases that no other test covers.

``docs/differences.md`` lists them all.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

import rio
from rio.client import pool, retry
from rio.contracts.membership import MemberStatus
from rio.errors import NoServersAvailable, NotExecuted, StorageUnavailable, UnknownMessage
from rio.identity import ObjectId
from rio.storage import Storage
from rio.storage.redis._dialer import RedisDialer
from rio.storage.redis._lane import RedisLane
from rio.testing import StorageFaults
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection
from rio.transport.protocol import Hello
from tests.cluster.processes import harness
from tests.cluster.processes.conftest import MakeCluster
from tests.regressions.pages import exists
from tests.server.harness import Cluster, Probe, until

ROOT = Path(__file__).parents[2]


class Where(rio.Message[str], readonly=True):
    pass


class Fill(rio.Message[int]):
    """Ask so many objects that are not in memory for their place, one after the other.

    The answer is the number of objects that answered.
    """

    number: int


class Wait(rio.Message[None]):
    """Wait until the test opens the gate."""

    gate: str


class Thing(rio.ServiceObject):
    @rio.handler
    def where(self, _: Where) -> str:
        return str(self.address)

    @rio.handler
    async def fill(self, message: Fill) -> int:
        return len(
            [
                await self.send(Thing, f"{self.id}-{number}", Where())
                for number in range(message.number)
            ]
        )

    @rio.handler
    async def wait(self, message: Wait, app: rio.AppData) -> None:
        app.get(Probe).note(f"{self.id} waits")
        await app.get(Probe).gate(message.gate).wait()


@pytest.fixture
def a_single_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client does not try again within the time of a test.

    A deadline that fell into another attempt would end the call with an unknown outcome.
    """
    monkeypatch.setattr(retry, "delay", lambda attempts, rng: 60.0)


# --- double activation ----------------------------------------------------------------------------


async def test_a_membership_that_cannot_be_read_is_no_proof_that_an_owner_is_dead(
    cluster: Cluster, a_single_attempt: None
) -> None:
    faults = StorageFaults()
    storage = Storage(
        faults.wrap(cluster.storage).membership, cluster.storage.placement, cluster.storage.state
    )
    server = await cluster.server(Thing, storage=storage)
    faults.unavailable = True
    owner = (
        await cluster.storage.membership.register("10.0.0.1:5000")
    ).generation  # the server has not heard of it
    claimed = await cluster.storage.placement.claim(ObjectId("Thing", "t"), owner)
    with pytest.raises(NotExecuted):
        await server.client.send(Thing, "t", Where(), timeout=0.5)
    assert await cluster.storage.placement.lookup(ObjectId("Thing", "t")) == claimed


async def test_a_placement_that_cannot_be_read_is_not_one_that_does_not_exist(
    cluster: Cluster, a_single_attempt: None
) -> None:
    faults = StorageFaults()
    owner = await cluster.server(Thing)
    other = await cluster.server(Thing, storage=faults.wrap(cluster.storage))
    assert await owner.client.send(Thing, "t", Where()) == owner.address
    placed = await cluster.storage.placement.lookup(ObjectId("Thing", "t"))
    faults.unavailable = True
    with pytest.raises(NotExecuted, match="could not be claimed"):
        await other.client.send(Thing, "t", Where(), timeout=0.5)
    assert await cluster.storage.placement.lookup(ObjectId("Thing", "t")) == placed
    faults.unavailable = False
    assert await other.client.send(Thing, "t", Where()) == owner.address


async def test_a_server_with_an_address_of_ipv6_keeps_its_objects(cluster: Cluster) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no IPv6: {error}")
    owner = await cluster.server(Thing, address="[::1]:0")
    other = await cluster.server(Thing)
    client = await cluster.client()
    ids = [f"t{number}" for number in range(20)]
    for id in ids:
        assert await owner.client.send(Thing, id, Where()) == owner.address
    assert owner.address.startswith("[::1]:")
    assert {await other.client.send(Thing, id, Where()) for id in ids} == {owner.address}
    assert {await client.send(Thing, id, Where()) for id in ids} == {owner.address}


# --- membership -----------------------------------------------------------------------------------


async def test_a_server_whose_event_loop_does_not_answer_is_not_taken_for_alive(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "HANDSHAKE_TIMEOUT", 0.2)
    server = await cluster.server(Thing)
    client = await cluster.client()
    assert await client.ping(server.address) > 0
    listener = socket.create_server(
        ("127.0.0.1", 0)
    )  # the operating system accepts connections, and no process answers
    with listener, pytest.raises(NotExecuted, match="cannot be reached"):
        await client.ping(f"127.0.0.1:{listener.getsockname()[1]}")


def test_no_time_of_day_is_read_to_decide_anything() -> None:
    """Clocks that show different times do no harm.

    Storages read their own clock, for numbers that have to grow and need not be right. The spans of
    a trace have the time of day, as OpenTelemetry says, metrics that of a server's start, and
    certificates end at one.
    """
    wall = re.compile(
        r"\btime\.time(_ns)?\(|\b(utc)?now\(timezone|\bdatetime\.(utc)?now\(|\bCLOCK_REALTIME\b"
    )
    sources = [path for path in (ROOT / "src").rglob("*.py*") if path.suffix in (".py", ".pyx")]
    found = {path.name for path in sources if wall.search(path.read_text())}
    of_certificates = {"authority.py", "credentials.py", "tls.py", "trust.py"}
    assert found == {"tracer.py", "metrics.py", *of_certificates}


# --- deadlocks, growth, one that holds up the others ----------------------------------------------


async def test_an_object_may_call_any_number_of_new_objects_on_its_own_node(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Thing)
    assert await server.client.send(Thing, "first", Fill(10_000)) == 10_000
    assert server.statistics().live_objects == 10_001


async def test_an_object_that_is_shut_down_while_another_runs_holds_up_nobody(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Thing)
    client = await cluster.client()
    slow = asyncio.ensure_future(client.send(Thing, "slow", Wait("the end")))
    await probe.noted("slow waits")
    assert await client.send(Thing, "short", Where())
    await client.admin(rio.AdminCommand.shutdown(Thing, "short"))
    assert all(
        await asyncio.gather(*(client.send(Thing, f"t{number}", Where()) for number in range(100)))
    )
    assert await client.send(Thing, "short", Where())
    assert not slow.done()
    probe.gate("the end").set()
    await slow


async def test_what_was_served_leaves_no_task_and_no_connection(cluster: Cluster) -> None:
    server = await cluster.server(Thing)
    assert await server.client.send(Thing, "first", Fill(10)) == 10
    before, connections = len(asyncio.all_tasks()), server.statistics().connections
    for _ in range(50):
        async with rio.Client(cluster.storage) as client:
            assert await client.send(Thing, "first", Fill(10)) == 10
    await until(lambda: server.statistics().connections == connections)
    await until(lambda: len(asyncio.all_tasks()) <= before)


def limit_descriptors(process: int, *, spare: int) -> None:
    """Let a process open so many files and sockets more than it has now."""
    import resource  # here, because Windows has none

    used = len(list(Path(f"/proc/{process}/fd").iterdir()))
    _, hard = resource.prlimit(process, resource.RLIMIT_NOFILE)
    resource.prlimit(process, resource.RLIMIT_NOFILE, (used + spare, hard))


async def test_a_server_that_runs_out_of_file_descriptors_serves_on_and_takes_connections_again(
    make_cluster: MakeCluster,
) -> None:
    cluster = await make_cluster("strict", {})
    [node] = cluster.nodes
    assert await cluster.value("before") == 0
    host, port = rio.Address.parse(node.address)
    limit_descriptors(node.process.pid, spare=8)
    async with AsyncExitStack() as stack:
        for _ in range(64):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
        assert await cluster.value("before") == 0  # on the connection that it has
    async with rio.Client(cluster.url) as newcomer:
        assert (await newcomer.send(harness.Counter, "before", harness.Get())).value == 0
    assert node.alive


class Nightly(rio.ServiceObject):
    @rio.handler
    def where(self, _: Where) -> str:
        return str(self.id)


async def test_an_object_that_is_called_like_its_message_takes_no_handler_with_it(
    cluster: Cluster,
) -> None:
    await cluster.server(Nightly)
    client = await cluster.client()
    assert await client.send(Nightly, "Where", Where()) == "Where"
    await client.admin(rio.AdminCommand.shutdown(Nightly, "Where"))
    assert await client.send(Nightly, "other", Where()) == "other"
    assert await client.send(Nightly, "Where", Where()) == "Where"


# --- clients --------------------------------------------------------------------------------------


async def test_a_subscription_to_a_server_that_refuses_it_says_so_at_the_deadline(
    cluster: Cluster,
) -> None:
    connections = 0

    def count_and_close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        writer.close()

    async with await asyncio.start_server(count_and_close, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        generation = (await cluster.storage.membership.register(f"{host}:{port}")).generation
        await cluster.storage.membership.set_status(
            generation, MemberStatus.JOINING, MemberStatus.ACTIVE
        )
        client = await cluster.client(timeout=1.0)
        with pytest.raises(NoServersAvailable):
            async with client.subscribe(Thing, "t"):
                raise AssertionError("nobody is there to subscribe to")
    assert 1 < connections < 50


@pytest.mark.parametrize(
    "name",
    ["Load", "LifecycleMessage", "before_load", "load", "after_load", "shutdown", "__init__"],
)
async def test_a_client_cannot_have_a_live_object_loaded_again(cluster: Cluster, name: str) -> None:
    await cluster.server(Thing)
    client = await cluster.client()
    await client.send(Thing, "t", Where())
    token = await cluster.storage.placement.lookup(ObjectId("Thing", "t"))
    with pytest.raises(UnknownMessage):
        await client.send(Thing, "t", rio.DynamicMessage(name, {}))
    assert await cluster.storage.placement.lookup(ObjectId("Thing", "t")) == token


async def test_a_server_listens_on_this_machine_only_unless_it_is_told_otherwise(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Thing)
    assert server.address.startswith("127.0.0.1:")
    for number in server._acceptor.numbers():
        with socket.socket(fileno=os.dup(number)) as listening:
            assert listening.getsockname()[0] == "127.0.0.1"


# --- our own: what ``make chaos`` has found -------------------------------------------------------


async def test_a_server_that_could_not_be_reached_a_thousand_times_is_tried_again(
    cluster: Cluster,
) -> None:
    async def refuse(_: str) -> ClientConnection:
        raise ConnectionRefusedError

    client = await cluster.client()
    peer = pool.Peer("127.0.0.1:1", client._router, refuse)
    for _ in range(1100):
        with pytest.raises(NotExecuted):
            await peer.connect()
    assert peer.failures == 1100


async def test_a_server_that_greets_and_leaves_at_once_has_not_run_anything(
    cluster: Cluster, a_single_attempt: None
) -> None:
    def greet_and_leave(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        frames = (
            protocol.write_hello(Hello(protocol.VERSION, "node", 1, "here")),
            protocol.write_goaway("stopped", 0),
        )
        writer.write(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))
        writer.close()

    async with await asyncio.start_server(greet_and_leave, "127.0.0.1", 0) as listener:
        host, port = listener.sockets[0].getsockname()
        generation = (await cluster.storage.membership.register(f"{host}:{port}")).generation
        await cluster.storage.membership.set_status(
            generation, MemberStatus.JOINING, MemberStatus.ACTIVE
        )
        client = await cluster.client()
        with pytest.raises(NotExecuted):
            await client.send(Thing, "t", Fill(1), timeout=0.5)


async def test_a_connection_to_redis_that_breaks_while_it_is_prepared_is_unavailable() -> None:
    class Broken:
        is_connected = True

        async def can_read(self) -> bool:
            return False

        async def send_packed_command(self, *_: object, **__: object) -> None:
            raise ConnectionResetError

        async def disconnect(self, **_: object) -> None: ...

    lane = RedisLane(RedisDialer("redis://127.0.0.1:1/0"))
    lane._connection = Broken()
    with pytest.raises(StorageUnavailable, match="it may have been done or not"):
        await lane.ask(b"INFO")


# --- the page -------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "differences.md"


def situations() -> dict[int, str]:
    """The last column of the page's tables, by number."""
    rows = re.findall(r"^\| W(\d+) \|.*\| ([^|]*) \|$", PAGE.read_text(), re.MULTILINE)
    assert len(rows) == len(dict(rows))
    return {int(number): shown for number, shown in rows}


def test_the_page_lists_fifty_situations_and_who_shows_what_happens() -> None:
    shown = situations()
    assert list(shown) == list(range(1, 51))
    for number, tests in shown.items():
        assert re.fullmatch(r"(`[\w/.]+(::\w+)+` ?)+", tests), number


@pytest.mark.parametrize(
    "test",
    sorted({test for tests in situations().values() for test in re.findall(r"`([^`]+)`", tests)}),
)
def test_each_test_that_the_page_names_exists(test: str) -> None:
    assert exists(test)
