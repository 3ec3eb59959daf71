"""A client finds an object wherever it lives, and remembers the place."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

import rio
from rio._core.calls import Call
from rio.contracts.membership import MemberStatus
from rio.errors import Redirected, UnknownType
from rio.identity import ObjectId
from tests.server.harness import NO_ANSWER, Cluster, Patient, Probe, RawPeer, activations, until


class Where(rio.Message[str], readonly=True):
    pass


class Refuse(rio.Message[None]):
    pass


class Relay(rio.Message[list[str]]):
    """Go through the objects of ``path``, and answer where each lives."""

    path: list[str]


class No(rio.ApplicationError, type_name="test_redirect.No"):
    pass


class Thing(rio.ServiceObject):
    @rio.handler
    def where(self, message: Where) -> str:
        return str(self.address)

    @rio.handler
    async def relay(self, message: Relay) -> list[str]:
        if not message.path:
            return [str(self.address)]
        to, *path = message.path
        return [str(self.address), *await self.ref(Thing, to).relay(Relay(path))]

    @rio.handler
    async def refuse(self, message: Refuse) -> None:
        raise No


class Other(rio.ServiceObject):
    @rio.handler
    def where(self, message: Where) -> str:
        return str(self.address)


@pytest.fixture
async def servers(cluster: Cluster) -> list[rio.Server]:
    return await cluster.nodes(3, Thing)


async def placed(servers: list[rio.Server], id: str, server: rio.Server) -> None:
    assert await server.client.send(Thing, id, Where()) == server.address


async def test_an_object_on_another_node_is_found(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    for number in range(30):
        home = servers[number % 3]
        await placed(servers, f"t{number}", home)
        assert await client.send(Thing, f"t{number}", Where()) == home.address


async def test_an_object_that_was_found_is_called_where_it_is(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    for number in range(30):
        await placed(servers, f"t{number}", servers[number % 3])
        await client.send(Thing, f"t{number}", Where())
    before = cluster.calls()
    for _ in range(3):
        await asyncio.gather(*(client.send(Thing, f"t{number}", Where()) for number in range(30)))
    assert cluster.calls() - before == 90, "one request for each call"


async def test_an_answer_that_is_an_application_error_tells_where_the_object_lives_as_well(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    for number in range(10):
        await placed(servers, f"t{number}", servers[number % 3])
        with pytest.raises(No):
            await client.send(Thing, f"t{number}", Refuse())
    before = cluster.calls()
    for number in range(10):
        with pytest.raises(No):
            await client.send(Thing, f"t{number}", Refuse())
    assert cluster.calls() - before == 10


async def test_objects_with_names_that_look_alike_are_not_confused(cluster: Cluster) -> None:
    """rio-rs keys its cache by (id, type) and reads it by (type, id)."""
    one, two = await cluster.nodes(2, Thing, Other)
    await one.client.send(Thing, "Other", Where())
    await two.client.send(Other, "Thing", Where())
    client = await cluster.client()
    for _ in range(3):
        assert await client.send(Thing, "Other", Where()) == one.address
        assert await client.send(Other, "Thing", Where()) == two.address


async def test_an_object_that_has_moved_is_found_again(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    for home in (*servers, *servers):
        await placed(servers, "t", home)
        assert await client.send(Thing, "t", Where()) == home.address
        await client.admin(rio.AdminCommand.shutdown(Thing, "t"))
        await until(lambda: cluster.home(Thing, "t") is None)


async def test_objects_call_objects_on_other_nodes(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    for number in range(9):
        await placed(servers, f"t{number}", servers[number % 3])
    path = [f"t{number}" for number in range(9)]
    assert await client.send(Thing, "t0", Relay(path[1:])) == [
        servers[number % 3].address for number in range(9)
    ]


async def test_a_new_object_comes_to_life_next_to_the_one_that_calls_it(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    await placed(servers, "caller", servers[1])
    addresses = await client.send(Thing, "caller", Relay(["new"]))
    assert addresses == [servers[1].address] * 2


async def test_calls_between_objects_of_one_node_use_no_socket(cluster: Cluster) -> None:
    server = await cluster.server(Thing)
    await server.client.send(Thing, "a", Relay(["b", "c"]))
    (connection,) = server._catalog.dispatcher.connections
    assert connection.peer_name == "memory"


async def test_of_two_nodes_that_claim_at_once_one_wins_and_the_other_redirects(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    for number in range(50):
        answers = await asyncio.gather(
            *(server.client.send(Thing, f"race{number}", Where()) for server in servers)
        )
        assert len(set(answers)) == 1
    assert sum(server.statistics().live_objects for server in servers) == 50


# --- redirects that do not end --------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_a_redirect_loop_pauses_after_four_hops_until_the_nodes_agree(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await cluster.nodes(2, Thing)
    for server, other in ((one, two), (two, one)):
        error = Redirected(f"ask {other.address}", [other.address, other.generation])
        monkeypatch.setattr(server._catalog, "activate", lambda turn, error=error: turn.fail(error))
    client = await cluster.client(rng=Patient())
    call = asyncio.ensure_future(client.send(Thing, "t", Where(), timeout=1000.0))
    await until(lambda: cluster.calls() == 5)
    await asyncio.sleep(1.0)
    assert cluster.calls() == 5, "the first, and four hops, then a pause"
    monkeypatch.undo()
    assert await call in (str(one.address), str(two.address))


async def test_a_redirect_to_what_is_no_member_is_not_followed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = await cluster.server(Thing)
    connected: list[Any] = []
    listener = await asyncio.start_server(
        lambda reader, writer: connected.append(writer.close()), "127.0.0.1", 0
    )
    stranger = "{}:{}".format(*listener.sockets[0].getsockname())
    activate = server._catalog.activate
    redirects = [[stranger, 4711], [stranger, server.generation]]

    def misled(turn: Any) -> None:
        if redirects:
            turn.fail(Redirected("go there", redirects.pop()))
        else:
            activate(turn)

    monkeypatch.setattr(server._catalog, "activate", misled)
    client = await cluster.client()
    assert await client.send(Thing, "t", Where()) == server.address
    assert connected == []
    listener.close()
    await listener.wait_closed()


async def test_a_placement_on_a_member_that_is_gone_is_taken_over(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    gone = await cluster.storage.membership.register("127.0.0.1:1")
    await cluster.storage.membership.set_status(
        gone.generation, MemberStatus.JOINING, MemberStatus.DEAD
    )
    await cluster.storage.placement.claim(ObjectId("Thing", "t"), gone.generation)
    client = await cluster.client()
    await client.send(Thing, "t", Where())
    home = cluster.home(Thing, "t")
    assert home is not None
    placement = await cluster.storage.placement.lookup(ObjectId("Thing", "t"))
    assert placement is not None
    assert placement.generation == home.generation


@pytest.mark.virtual_time
async def test_a_placement_on_a_member_that_may_be_alive_is_left_alone(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    silent = await cluster.storage.membership.register("127.0.0.1:1")
    claim = await cluster.storage.placement.claim(ObjectId("Thing", "t"), silent.generation)
    client = await cluster.client()
    with pytest.raises(NO_ANSWER):
        await client.send(Thing, "t", Where(), timeout=0.2)
    assert await cluster.storage.placement.lookup(ObjectId("Thing", "t")) == claim
    await cluster.storage.membership.set_status(
        silent.generation, MemberStatus.JOINING, MemberStatus.DEAD
    )


# --- nodes that host different types --------------------------------------------------------------


async def test_a_node_that_does_not_host_a_type_passes_the_call_on_and_claims_nothing(
    cluster: Cluster,
) -> None:
    things = await cluster.server(Thing)
    others = await cluster.nodes(3, Other)
    client = await cluster.client()
    for number in range(20):
        assert await client.send(Thing, f"t{number}", Where()) == things.address
        assert await client.send(Other, f"o{number}", Where()) in {
            server.address for server in others
        }
    assert len(activations(things, Thing)) == 20
    for server in others:
        owned = await cluster.storage.placement.owned_by(server.generation)
        assert all(object_id.type_name == "Other" for object_id in owned)


async def test_an_object_calls_an_object_of_a_type_that_its_own_node_does_not_host(
    cluster: Cluster,
) -> None:
    class Caller(rio.ServiceObject):
        @rio.handler
        async def where(self, message: Where) -> str:
            return await self.send(Thing, "t", Where())

    caller = await cluster.server(Caller)
    things = await cluster.server(Thing)
    assert await caller.client.send(Caller, "c", Where()) == things.address


async def test_a_type_that_nobody_hosts_is_told_and_leaves_no_row(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client()
    with pytest.raises(
        UnknownType, match="does not host objects of type 'Nothing'; it hosts: Thing"
    ):
        await client.send("Nothing", "x", Where())
    assert cluster.calls() == 3, "each node was asked once"
    assert await cluster.storage.placement.lookup(ObjectId("Nothing", "x")) is None


async def test_a_redirect_names_the_owner_and_its_generation(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    await placed(servers, "t", servers[0])
    async with await RawPeer.connect(servers[1]) as peer:
        peer.send(msgspec.msgpack.encode((1, 3, "Thing", "t", "Where", 1000, None, {})))
        kind, id, code, text, detail = await peer.frame()
    assert (kind, id, code) == (3, 3, "redirect")
    assert detail == [servers[0].address, servers[0].generation]
    assert text == f"Thing/t lives on {servers[0].address}"
    assert servers[1].statistics().live_objects == 0


async def test_the_place_of_many_objects_is_remembered_in_bounded_room(
    servers: list[rio.Server], cluster: Cluster
) -> None:
    client = await cluster.client(route_limit=20)
    for number in range(60):
        await client.send(Thing, f"t{number}", Where())
    known = sum(
        client._router.caller.find("Thing", f"t{number}") is not None for number in range(60)
    )
    assert 0 < known <= 20
    assert {type(call) for call in client._router.waiting} <= {Call}
    assert not client._router.waiting


async def test_first_calls_of_one_caller_to_one_object_keep_their_order_on_any_number_of_nodes(
    cluster: Cluster, probe: Probe
) -> None:
    class Put(rio.Message[int]):
        number: int

    class Log(rio.ServiceObject):
        def __init__(self) -> None:
            self.seen: list[int] = []

        @rio.handler
        def put(self, message: Put) -> int:
            self.seen.append(message.number)
            return len(self.seen) - 1

    await cluster.nodes(3, Log)
    client = await cluster.client()
    for attempt in range(10):
        places = await asyncio.gather(
            *(client.send(Log, f"l{attempt}", Put(number)) for number in range(20))
        )
        assert places == list(range(20))
