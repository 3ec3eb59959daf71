"""Requests that have waited for a server that stood still: they count from when they arrived."""

from __future__ import annotations

import socket
import time

import pytest

import rio
from rio._core.clock import now
from rio._core.wire import Kind
from tests.server.harness import Cluster, Probe, RawPeer, until
from tests.server.test_hostile import request


class Note(rio.Message[None]):
    text: str


class Diary(rio.ServiceObject):
    @rio.handler
    def note(self, message: Note, app: rio.AppData) -> None:
        app.get(Probe).note(message.text)


def note(number: int, text: str, timeout: int) -> bytes:
    body = request(number, type="Diary", message="Note", timeout=timeout, payload={"text": text})
    return len(body).to_bytes(4, "big") + body


@pytest.mark.both_loops
async def test_a_request_that_arrives_after_its_caller_gave_up_is_not_executed(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Diary, cluster="strict")
    async with await RawPeer.connect(server) as peer:
        peer.writer.write(note(1, "before", 10_000))
        await peer.frame()
        own: socket.socket = peer.writer.get_extra_info("socket")
        raw = own.dup() if hasattr(own, "dup") else socket.socket(fileno=own.fileno())
        raw.send(note(2, "given up", 200) + note(3, "still wanted", 10_000))
        time.sleep(0.6)  # noqa: ASYNC251  # nothing else shows what a loop that stands still does
        answers = {id: kind for kind, id, *_ in [await peer.frame() for _ in range(2)]}
        assert answers == {2: Kind.ERROR, 3: Kind.RESPONSE}
        raw.close()
        await until(lambda: server._catalog.dispatcher.admits)
        peer.writer.write(note(4, "in time", 200))
        assert (await peer.frame())[:2] == [Kind.RESPONSE, 4]
    assert probe.log == ["before", "still wanted", "in time"]


@pytest.mark.both_loops
async def test_a_call_inside_the_process_has_not_waited_for_the_loop(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Diary)
    await server.client.send(Diary, "a", Note("before"))
    time.sleep(0.6)  # noqa: ASYNC251  # as above
    await server.client.send(Diary, "a", Note("in time"), timeout=0.2)
    assert probe.log == ["before", "in time"]


async def test_by_a_clock_that_was_handed_in_the_loop_never_stood_still(
    cluster: Cluster, probe: Probe
) -> None:
    server = await cluster.server(Diary, clock=now)
    async with await RawPeer.connect(server) as peer:
        peer.writer.write(note(1, "before", 10_000))
        await peer.frame()
        own: socket.socket = peer.writer.get_extra_info("socket")
        raw = own.dup() if hasattr(own, "dup") else socket.socket(fileno=own.fileno())
        raw.send(note(2, "a moment ago by that clock", 200))
        time.sleep(0.6)  # noqa: ASYNC251  # as above
        assert (await peer.frame())[:2] == [Kind.RESPONSE, 2]
        raw.close()
    assert probe.log == ["before", "a moment ago by that clock"]
