"""A message that nobody awaits is no deadlock, and is not lost."""

from __future__ import annotations

import asyncio
import logging

import pytest

import rio
from rio.errors import BadIdentity, Deadlock, FrameTooLarge, NotExecuted
from tests.server.harness import Cluster, Probe, until


class Go(rio.Message[str]):
    """Do what ``how`` says, with the object ``to``."""

    how: str
    to: str = ""


class Note(rio.Message[str]):
    text: str


class Count(rio.Message[None]):
    left: int


class Fail(rio.Message[None]):
    pass


class Actor(rio.ServiceObject):
    def __init__(self) -> None:
        self.sent: list[object] = []

    async def after_load(self) -> None:
        if self.id == "starts itself":
            self.sent.append(self.send(Actor, self.id, Note("from the hook")))

    @rio.handler
    async def go(self, message: Go, app: rio.AppData) -> str:
        probe = app.get(Probe)
        match message.how:
            case "send to myself":
                self.sent.append(self.send(Actor, self.id, Note("later")))
                await asyncio.sleep(0.15)  # longer than the node takes until it looks again
            case "tell myself":
                self.tell(Actor, self.id, Note("later"))
            case "have it sent back":
                self.sent.append(self.send(Actor, message.to, Go("send", self.id)))
                probe.note("asked")
                await probe.gate("go").wait()
            case "await what sends back":
                await self.send(Actor, message.to, Go("send", self.id))
            case "await what tells back":
                await self.send(Actor, message.to, Go("tell", self.id))
            case "send":
                self.sent.append(self.send(Actor, message.to, Note("back")))
            case "tell":
                self.tell(Actor, message.to, Note("back"))
            case "await at last":
                answer = self.send(Actor, self.id, Note("never"))
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                return await answer
            case "gather":
                return "".join(await asyncio.gather(self.send(Actor, self.id, Note("never"))))
            case "only the second":
                self.sent.append(self.send(Actor, self.id, Note("first")))
                return await self.send(Actor, self.id, Note("second"))
        probe.note("went")
        return "gone"

    @rio.handler
    def note(self, message: Note, app: rio.AppData) -> str:
        app.get(Probe).note(message.text)
        return message.text

    @rio.handler
    def count(self, message: Count, app: rio.AppData) -> None:
        if message.left:
            self.sent = [self.send(Actor, self.id, Count(message.left - 1))]
        else:
            app.get(Probe).note("counted")

    @rio.handler
    def fail(self, message: Fail) -> None:
        raise rio.ApplicationError("no")


async def two_objects(cluster: Cluster, nodes: int) -> rio.Client:
    servers = await cluster.nodes(nodes, Actor)
    for place, id in enumerate(["a", "b"]):
        await servers[place % nodes].client.send(Actor, id, Note(""))
    client = await cluster.client()
    return client


@pytest.mark.parametrize("how", ["send to myself", "tell myself"])
async def test_a_message_to_oneself_runs_after_the_turn(
    cluster: Cluster, probe: Probe, how: str
) -> None:
    client = await two_objects(cluster, 1)
    probe.log.clear()
    assert await client.send(Actor, "a", Go(how)) == "gone"
    await probe.noted("later")
    assert probe.log == ["went", "later"]


@pytest.mark.parametrize("nodes", [1, 2])
@pytest.mark.parametrize("how", ["await what sends back", "await what tells back"])
async def test_a_message_back_to_whoever_waits_runs_once_that_has_ended(
    cluster: Cluster, probe: Probe, how: str, nodes: int
) -> None:
    client = await two_objects(cluster, nodes)
    assert await client.send(Actor, "a", Go(how, "b")) == "gone"
    if "tells" in how:
        await probe.noted("back")
    else:
        assert await client.send(Actor, "a", Note("after")) == "after"


@pytest.mark.parametrize("nodes", [1, 2])
async def test_a_call_back_to_a_turn_that_does_not_wait_is_no_deadlock(
    cluster: Cluster, probe: Probe, nodes: int
) -> None:
    client = await two_objects(cluster, nodes)
    went = asyncio.ensure_future(client.send(Actor, "a", Go("have it sent back", "b")))
    await probe.noted("asked")
    await probe.noted("went")  # b is done, and its message waits for a
    probe.gate("go").set()
    assert await went == "gone"
    await probe.noted("back")


@pytest.mark.parametrize("how", ["await at last", "gather", "only the second"])
async def test_to_await_an_answer_of_oneself_is_a_deadlock(
    cluster: Cluster, probe: Probe, how: str
) -> None:
    client = await two_objects(cluster, 1)
    with pytest.raises(Deadlock, match=r"Actor/a\.Go -> Actor/a\.Note"):
        await client.send(Actor, "a", Go(how))
    if how == "only the second":
        await until(lambda: "first" in probe.log)
    assert not {"never", "second"} & set(probe.log)


async def test_an_object_can_send_itself_one_message_after_the_other(
    cluster: Cluster, probe: Probe
) -> None:
    await cluster.server(Actor)
    client = await cluster.client()
    await client.send(Actor, "a", Count(200))
    await probe.noted("counted")


async def test_a_hook_can_send_to_its_own_object(cluster: Cluster, probe: Probe) -> None:
    await cluster.server(Actor)
    client = await cluster.client()
    assert await client.send(Actor, "starts itself", Note("first")) == "first"
    await probe.noted("from the hook")


async def test_what_becomes_of_a_told_message_is_logged(
    cluster: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    await cluster.server(Actor)
    client = await cluster.client()
    assert client.tell(Actor, "a", Fail()) is None  # type: ignore[func-returns-value]
    await until(lambda: "Fail to Actor/a, which nobody awaits, has failed" in caplog.text)
    assert [record.levelno for record in caplog.records if "nobody" in record.getMessage()] == [
        logging.WARNING
    ]


async def test_what_is_wrong_with_a_told_message_is_raised_at_once(cluster: Cluster) -> None:
    await cluster.server(Actor)
    client = await cluster.client()
    await client.send(Actor, "a", Note(""))
    with pytest.raises(BadIdentity):
        client.tell(Actor, "", Note(""))
    with pytest.raises(TypeError):
        client.tell(Actor, "a", "no message")  # type: ignore[arg-type]
    with pytest.raises(FrameTooLarge):
        client.tell(Actor, "a", Note("x" * 5_000_000))
    with pytest.raises(NotExecuted):
        client.tell(Actor, "a", Note(""), timeout=0)
    with pytest.raises(RuntimeError):
        rio.Client(cluster.storage).tell(Actor, "a", Note(""))


async def test_told_messages_and_calls_keep_their_order(cluster: Cluster, probe: Probe) -> None:
    await cluster.server(Actor)
    client = await cluster.client()
    for number in range(50):
        client.tell(Actor, "a", Note(f"told {number}"))
        answer = client.send(Actor, "a", Note(f"sent {number}"))
    await answer
    assert probe.log == [f"{how} {number}" for number in range(50) for how in ("told", "sent")]
