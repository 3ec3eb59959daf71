"""Events reach every subscriber wherever the object moves, and cost nothing once all have left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

import rio
from rio.contracts.membership import MemberStatus
from rio.errors import (
    BadMessage,
    BadReply,
    ConfigurationError,
    Gap,
    HandlerFailed,
    NoServersAvailable,
)
from tests.server.harness import Cluster, Probe, crash, sever, until


class Said(rio.Message):
    text: str
    number: int = 0


class Left(rio.Message):
    who: str


class Say(rio.Message[None]):
    text: str
    times: int = 1


class Leave(rio.Message[None]):
    who: str


class SayInTask(rio.Message[None]):
    """Publish from a task that outlives the turn."""

    text: str


class SayNumber(rio.Message[str]):
    """Publish a number of another type. The reply is the error."""

    number: Any


class Swell(rio.Message[None]):
    size: int


class Ping(rio.Message[None]):
    pass


class Room(rio.ServiceObject):
    def __init__(self) -> None:
        self.background: list[asyncio.Task[None]] = []

    async def after_load(self) -> None:
        self.publish(Said("nobody can hear this"))
        if self.id == "closed":
            raise ValueError("no entry")

    async def shutdown(self) -> None:
        self.publish(Said("closing"))

    @rio.handler
    def say_number(self, message: SayNumber) -> str:
        try:
            self.publish(Said("a number", message.number))
        except BadMessage as error:
            return str(error)
        return ""

    @rio.handler
    def say(self, message: Say) -> None:
        for number in range(message.times):
            self.publish(Said(message.text, number))

    @rio.handler
    async def leave(self, message: Leave) -> None:
        self.publish(Left(message.who))

    @rio.handler
    def say_in_task(self, message: SayInTask, app: rio.AppData) -> None:
        async def later() -> None:
            await app.get(Probe).gate("say").wait()
            self.publish(Said(message.text))

        self.background.append(asyncio.create_task(later()))

    @rio.handler
    def swell(self, message: Swell) -> None:
        self.publish(Said("x" * message.size))

    @rio.handler
    def ping(self, message: Ping) -> None:
        return None


async def read_gap(events: rio.Subscription[Any]) -> int | None:
    """Read a gap, and return how many events are missing."""
    with pytest.raises(Gap) as caught:
        await anext(events)
    missed: int | None = caught.value.missed
    return missed


async def read(subscription: rio.Subscription[Any], count: int) -> list[Any]:
    return [await anext(subscription) for _ in range(count)]


def cut_clients(server: rio.Server) -> None:
    """Cut the connections of clients, and not the one within the server."""
    for connection in list(server._catalog.dispatcher.connections):
        if connection.peer is not None and connection.peer.role == "client":
            connection.transport.abort()


def subscriptions(cluster: Cluster) -> int:
    return sum(server.statistics().subscriptions for server in cluster.servers)


# --- delivery -------------------------------------------------------------------------------------


async def test_events_arrive_typed_and_in_order(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said, Left) as events:
        await client.send(Room, "lobby", Say("hi", times=3))
        await client.send(Room, "lobby", Leave("ada"))
        assert await read(events, 4) == [Said("hi", 0), Said("hi", 1), Said("hi", 2), Left("ada")]


async def test_only_the_classes_that_were_asked_for_are_delivered(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Left) as events:
        await client.send(Room, "lobby", Say("hi"))
        await client.send(Room, "lobby", Leave("ada"))
        assert await read(events, 1) == [Left("ada")]


async def test_without_classes_everything_arrives_by_name_and_value(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe("Room", "lobby") as events:
        await client.send(Room, "lobby", Say("hi"))
        assert await read(events, 1) == [rio.DynamicMessage("Said", {"text": "hi", "number": 0})]


async def test_a_subscription_can_be_read_without_entering_it(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    events = client.subscribe(Room, "lobby", Said)
    first = asyncio.ensure_future(anext(events))
    await until(lambda: server.statistics().subscriptions == 1)
    await client.send(Room, "lobby", Say("hi"))
    assert await first == Said("hi")
    await events.close()
    with pytest.raises(StopAsyncIteration):
        await anext(events)


async def test_many_subscribers_of_many_clients_all_hear_everything(cluster: Cluster) -> None:
    await cluster.nodes(2, Room)
    clients = [await cluster.client() for _ in range(4)]
    everybody = [client.subscribe(Room, "lobby", Said) for client in clients for _ in range(25)]
    await asyncio.gather(*(events.__aenter__() for events in everybody))
    assert subscriptions(cluster) == 100
    await clients[0].send(Room, "lobby", Say("all", times=10))
    for events in everybody:
        assert await read(events, 10) == [Said("all", number) for number in range(10)]
    await asyncio.gather(*(events.close() for events in everybody))
    await until(lambda: subscriptions(cluster) == 0)


async def test_subscribers_of_one_object_do_not_hear_another(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with (
        client.subscribe(Room, "one", Said) as one,
        client.subscribe(Room, "two", Said) as two,
    ):
        await client.send(Room, "one", Say("to one"))
        await client.send(Room, "two", Say("to two"))
        assert await read(one, 1) == [Said("to one")]
        assert await read(two, 1) == [Said("to two")]


async def test_an_object_on_another_node_is_subscribed_to_by_redirect(cluster: Cluster) -> None:
    servers = await cluster.nodes(3, Room)
    client = await cluster.client()
    for number, server in enumerate(servers):
        await server.client.send(Room, f"r{number}", Ping())
        async with client.subscribe(Room, f"r{number}", Said) as events:
            assert server.statistics().subscriptions == 1
            await client.send(Room, f"r{number}", Say("here"))
            assert await read(events, 1) == [Said("here")]


async def test_a_server_may_subscribe_to_its_own_objects(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    async with server.client.subscribe(Room, "lobby", Said) as events:
        await server.client.send(Room, "lobby", Say("inside"))
        assert await read(events, 1) == [Said("inside")]
    await until(lambda: server.statistics().subscriptions == 0)


async def test_a_task_that_outlives_its_turn_may_publish(cluster: Cluster, probe: Probe) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        await client.send(Room, "lobby", SayInTask("later"))
        probe.gate("say").set()
        assert await read(events, 1) == [Said("later")]


async def test_subscribing_to_an_object_that_cannot_be_activated_fails(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    with pytest.raises(rio.RioError, match="no entry"):
        async with client.subscribe(Room, "closed", Said):
            pass
    assert subscriptions(cluster) == 0
    assert not client._router.subscriptions


async def test_an_event_that_does_not_fit_its_class_is_told(cluster: Cluster) -> None:
    class OtherSaid(rio.Message, type_name="Said"):
        text: int

    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", OtherSaid) as events:
        await client.send(Room, "lobby", Say("hi"))
        with pytest.raises(BadReply, match=r"Said.*\$\.text"):
            await anext(events)


async def test_an_event_larger_than_a_frame_fails_its_publisher_and_harms_nobody(
    cluster: Cluster,
) -> None:
    await cluster.server(Room, config=rio.ServerConfig(frame_limit=10_000))
    client = await cluster.client(frame_limit=10_000)
    async with client.subscribe(Room, "lobby", Said) as events:
        with pytest.raises(
            HandlerFailed,
            match="FrameTooLarge: Said of Room/lobby takes 20017 bytes, the frame limit is 10000",
        ):
            await client.send(Room, "lobby", Swell(20_000))
        await until(lambda: events.moves == 1 and subscriptions(cluster) == 1)
        assert await read_gap(events) is None
        await client.send(Room, "lobby", Say("fine"))
        assert await read(events, 1) == [Said("fine")]


@pytest.mark.parametrize("bad", [{"limit": 0}, {"overflow": "explode"}])
def test_settings_that_make_no_sense_are_refused(bad: dict[str, Any]) -> None:
    client = rio.Client("memory://")
    with pytest.raises(ConfigurationError):
        client.subscribe(Room, "lobby", Said, **bad)


@pytest.mark.parametrize("wanted", [dict, "Said", rio.Message, rio.DynamicMessage])
def test_events_that_nobody_can_publish_cannot_be_subscribed_to(wanted: Any) -> None:
    client = rio.Client("memory://")
    with pytest.raises(TypeError, match=r"an event is a subclass of rio\.Message"):
        client.subscribe(Room, "lobby", wanted)


# --- slow readers ---------------------------------------------------------------------------------


async def test_a_slow_reader_is_told_how_much_it_missed_and_goes_on(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said, limit=5) as events:
        await client.send(Room, "lobby", Say("x", times=12))
        with pytest.raises(Gap) as caught:
            await anext(events)
        assert caught.value.missed == events.missed == 7
        assert [event.number for event in await read(events, 5)] == [7, 8, 9, 10, 11]
        await client.send(Room, "lobby", Say("y"))
        assert await read(events, 1) == [Said("y")]


@pytest.mark.parametrize(
    ("overflow", "kept"), [("drop_oldest", [7, 8, 9, 10, 11]), ("drop_newest", [0, 1, 2, 3, 4])]
)
async def test_a_slow_reader_may_choose_what_is_dropped(
    cluster: Cluster, overflow: Any, kept: list[int]
) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said, limit=5, overflow=overflow) as events:
        await client.send(Room, "lobby", Say("x", times=12))
        assert [event.number for event in await read(events, 5)] == kept
        assert events.missed == 7


@pytest.mark.parametrize("overflow", ["raise", "drop_oldest", "drop_newest"])
async def test_a_connection_that_is_too_slow_is_told_what_the_server_dropped(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, overflow: Any
) -> None:
    monkeypatch.setattr("rio.server.audience.MAX_UNSENT", 0)
    server = await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said, overflow=overflow) as events:
        await client.send(Room, "lobby", Say("x", times=10))
        await until(lambda: server.statistics().events_dropped == 9)
        await client.send(Room, "lobby", Say("y"))
        await until(lambda: events.missed == 9)
        assert await read(events, 1) == [Said("x", 0)]
        if overflow == "raise":
            with pytest.raises(Gap, match=r"9 event\(s\) were dropped"):
                await anext(events)
        assert await read(events, 1) == [Said("y")]
    assert server.statistics().events_delivered == 2


async def test_a_slow_reader_does_not_slow_the_others(cluster: Cluster) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with (
        client.subscribe(Room, "lobby", Said, limit=1) as slow,
        client.subscribe(Room, "lobby", Said, limit=2000) as fast,
    ):
        await client.send(Room, "lobby", Say("x", times=2000))
        assert [event.number for event in await read(fast, 2000)] == list(range(2000))
        assert fast.missed == 0
        assert slow.missed == 1999


# --- objects that move ----------------------------------------------------------------------------


async def test_a_subscription_follows_its_object_when_it_is_shut_down(cluster: Cluster) -> None:
    await cluster.nodes(2, Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        for turn in range(1, 6):
            await client.admin(rio.AdminCommand.shutdown(Room, "lobby"))
            assert await read(events, 1) == [Said("closing")]
            await until(lambda turn=turn: events.moves == turn and subscriptions(cluster) == 1)
            assert await read_gap(events) is None, "another activation may have published some"
            await client.send(Room, "lobby", Say(f"back {turn}"))
            assert await read(events, 1) == [Said(f"back {turn}")]


async def test_a_subscription_follows_its_object_when_its_node_stops(cluster: Cluster) -> None:
    servers = await cluster.nodes(3, Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        for remaining in (2, 1):
            home = cluster.home(Room, "lobby")
            assert home in servers
            await home.stop()
            await until(lambda: subscriptions(cluster) == 1)
            assert cluster.home(Room, "lobby") is not home
            assert await read(events, 1) == [Said("closing")]
            assert await read_gap(events) is None
            await client.send(Room, "lobby", Say(f"{remaining} left"))
            assert await read(events, 1) == [Said(f"{remaining} left")]


async def test_a_subscription_follows_its_object_when_its_node_dies(cluster: Cluster) -> None:
    await cluster.nodes(2, Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        home = cluster.home(Room, "lobby")
        assert home is not None
        await crash(home)
        await cluster.storage.membership.set_status(
            home.generation, MemberStatus.ACTIVE, MemberStatus.DEAD
        )
        await until(lambda: subscriptions(cluster) == 1)
        assert await read_gap(events) is None
        await client.send(Room, "lobby", Say("elsewhere"))
        assert await read(events, 1) == [Said("elsewhere")]
        assert events.moves == 1


async def test_a_subscription_is_made_again_when_its_connection_breaks(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        for turn in range(1, 4):
            sever(server)
            await until(
                lambda turn=turn: events.moves == turn and server.statistics().subscriptions == 1
            )
            await client.send(Room, "lobby", Say("again"))
            assert await read(events, 1) == [Said("again")]


@pytest.mark.parametrize("nodes", [1, 3])
async def test_an_object_that_goes_at_the_moment_it_is_subscribed_to_is_followed(
    cluster: Cluster, nodes: int
) -> None:
    """The answer to the subscription and the news of its end arrive together."""
    await cluster.nodes(nodes, Room)
    client = await cluster.client()
    for number in range(30):
        id = f"r{number}"
        events = client.subscribe(Room, id, Said, overflow="drop_oldest")
        await client.send(Room, id, Ping())
        entering = asyncio.ensure_future(events.__aenter__())
        leaving = asyncio.ensure_future(client.admin(rio.AdminCommand.shutdown(Room, id)))
        await asyncio.gather(entering, leaving)
        await until(lambda: events._attachment._attaching is None and subscriptions(cluster) == 1)  # noqa: B023
        await client.send(Room, id, Say("heard"))
        while (event := await anext(events)) != Said("heard"):
            assert event == Said("closing")
        await events.close()
        await until(lambda: subscriptions(cluster) == 0)


async def test_an_object_that_goes_while_it_is_subscribed_to_again_is_followed(
    cluster: Cluster,
) -> None:
    await cluster.nodes(2, Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said, overflow="drop_oldest") as events:
        for _ in range(50):
            await client.admin(rio.AdminCommand.shutdown(Room, "lobby"))
        await until(lambda: events._attachment._attaching is None and subscriptions(cluster) == 1)
        await client.send(Room, "lobby", Say("heard"))
        while (event := await anext(events)) != Said("heard"):
            assert event == Said("closing")


async def test_a_subscription_whose_object_cannot_be_found_any_more_says_so(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Room)
    client = await cluster.client(timeout=2.0)
    async with client.subscribe(Room, "lobby", Said) as events:
        await server.stop()
        assert await read(events, 1) == [Said("closing")]
        with pytest.raises(NoServersAvailable):
            await anext(events)


async def test_what_was_published_while_the_connection_was_broken_is_counted(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        await client.send(Room, "lobby", Say("before"))
        assert await read(events, 1) == [Said("before")]
        cut_clients(server)
        await server.client.send(Room, "lobby", Say("meanwhile", times=7))
        await until(lambda: events.moves == 1)
        await client.send(Room, "lobby", Say("after"))
        assert await read_gap(events) == events.missed == 7
        assert await read(events, 1) == [Said("after")]


async def test_a_reader_who_waits_hears_of_a_gap_before_anything_is_published(
    cluster: Cluster,
) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        await client.admin(rio.AdminCommand.shutdown(Room, "lobby"))
        assert await read(events, 1) == [Said("closing")]
        assert await read_gap(events) is None
        assert subscriptions(cluster) == events.moves == 1, "what comes now is heard"


async def test_a_subscriber_who_tells_losses_from_nothing_lost_sees_every_state(
    cluster: Cluster,
) -> None:
    """It reads the state after each gap, and each last event comes, or a gap in its place."""
    server = await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said, limit=3) as events:
        for turn in range(20):
            if turn % 3 == 0:
                cut_clients(server)
            if turn % 5 == 0:
                await server.client.admin(rio.AdminCommand.shutdown(Room, "lobby"))
            await server.client.send(Room, "lobby", Say(f"turn {turn}", times=turn % 7 + 1))
            with suppress(Gap):
                while await anext(events) != Said(f"turn {turn}", turn % 7):
                    pass


async def test_events_beyond_what_a_connection_holds_are_a_gap_though_none_follows(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "lobby", Said) as events:
        await client.send(Room, "lobby", Say("x" * 100_000, times=60))
        statistics = server.statistics()
        heard = [event.number for event in await read(events, statistics.events_delivered)]
        assert heard == list(range(len(heard)))
        assert len(heard) > 10
        assert await read_gap(events) == statistics.events_dropped == 60 - len(heard)
        await client.send(Room, "lobby", Say("y"))
        assert await read(events, 1) == [Said("y")], "and it is told once"


# --- what is freed --------------------------------------------------------------------------------


async def test_nothing_is_left_after_unsubscribing(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    for number in range(50):
        async with client.subscribe(Room, f"r{number}", Said):
            pass
    await until(lambda: server.statistics().subscriptions == 0)
    router = server._catalog.subscribers
    assert not router._audiences
    assert not router._of_sink
    assert not client._router.subscriptions


async def test_nothing_is_left_after_a_client_has_gone(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    async with rio.Client(cluster.storage) as client:
        everybody = [client.subscribe(Room, f"r{number % 5}", Said) for number in range(50)]
        await asyncio.gather(*(events.__aenter__() for events in everybody))
        assert server.statistics().subscriptions == 50
    await until(lambda: server.statistics().subscriptions == 0)
    assert not server._catalog.subscribers._audiences
    assert not server._catalog.subscribers._of_sink
    for events in everybody:
        with pytest.raises(StopAsyncIteration):
            await anext(events)


async def test_nothing_is_left_of_a_subscription_whose_caller_gave_up(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    await client.send(Room, "lobby", Ping())
    for pause in range(40):
        entering = asyncio.ensure_future(client.subscribe(Room, "lobby", Said).__aenter__())
        for _ in range(pause % 8):
            await asyncio.sleep(0)
        if not entering.done():
            entering.cancel()
        await asyncio.gather(entering, return_exceptions=True)
        if not entering.cancelled():
            await entering.result().close()
    assert not client._router.subscriptions
    await client.send(Room, "lobby", Say("anybody there?"))
    await until(lambda: server.statistics().subscriptions == 0)


async def test_publishing_to_nobody_costs_nothing(cluster: Cluster) -> None:
    server = await cluster.server(Room)
    client = await cluster.client()
    await client.send(Room, "lobby", Say("hello?", times=100))
    assert server.statistics().events_delivered == server.statistics().events_dropped == 0


@pytest.mark.parametrize("number", [2.5, "2", True, None], ids=repr)
async def test_an_event_that_would_be_read_as_something_else_is_not_published(
    cluster: Cluster, number: object
) -> None:
    await cluster.server(Room)
    client = await cluster.client()
    async with client.subscribe(Room, "a", Said) as events:
        text = await client.send(Room, "a", SayNumber(number))
        assert text.startswith("the event tests.server.test_pubsub.Said.number: Expected `int`")
        assert await client.send(Room, "a", SayNumber(2)) == ""
        assert await anext(events) == Said("a number", 2)
