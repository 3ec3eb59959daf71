"""The face of a client: what users see of it, and what a call costs in Python."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import rio
from rio.client.access import StorageAccess
from rio.client.client import client_of
from rio.client.router import Router
from rio.contracts.membership import MembershipSnapshot
from rio.errors import BadIdentity, ConfigurationError, StorageUnavailable
from tests.server.harness import Cluster

CALLS = 1000
NOW_AND_THEN = 50
"""Frames a second of what a server does by itself, at most, for each function."""
PACKAGE = str(Path(rio.__file__).parent)


class Echo(rio.Message[str]):
    text: str


class EchoAsync(rio.Message[str]):
    text: str


class EchoLater(rio.Message[str]):
    text: str


class EchoOften(rio.Message[list[dict[str, float]]]):
    through: str


class Parrot(rio.ServiceObject):
    @rio.handler
    def echo(self, message: Echo) -> str:
        return message.text

    @rio.handler
    async def echo_async(self, message: EchoAsync) -> str:
        return message.text

    @rio.handler
    async def echo_later(self, message: EchoLater) -> str:
        await asyncio.sleep(0)
        return message.text

    @rio.handler
    async def echo_often(self, message: EchoOften) -> list[dict[str, float]]:
        other = self.ref(Parrot, message.through)
        await other.echo(Echo("first"))
        return [
            await frames_per_call(lambda: self.send(Parrot, message.through, Echo("hello"))),
            await frames_per_call(lambda: other.echo(Echo("hello"))),
        ]


async def frames_per_call(
    call: Callable[[], Awaitable[Any]], in_flight: int = 1
) -> dict[str, float]:
    """The functions of ``rio`` that run in Python during each call, and how often.

    What runs less often than in one of 50 calls does not count, nor what runs now and then: the
    sweep of a server, and its look at the storage, run so often in the time that the calls take.
    """
    frames: Counter[str] = Counter()
    began = time.monotonic()

    def count(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE):
            frames[frame.f_code.co_qualname] += 1

    sys.setprofile(count)
    try:
        for _ in range(CALLS // in_flight):
            for reply in [call() for _ in range(in_flight)]:
                await reply
    finally:
        sys.setprofile(None)
    now_and_then = NOW_AND_THEN * (time.monotonic() - began)
    few = min(CALLS // 50 + now_and_then, CALLS // 2)
    return {name: count / CALLS for name, count in frames.items() if count > few}


# --- what a call costs ----------------------------------------------------------------------------


@pytest.mark.both_loops
@pytest.mark.parametrize("in_flight", [1, 50])
@pytest.mark.parametrize("message", [Echo("hello"), EchoAsync("hello"), EchoLater("hello")])
async def test_a_call_runs_no_python_frame_of_ours_on_either_side(
    cluster: Cluster, message: rio.Message[str], in_flight: int
) -> None:
    server = await cluster.server(Parrot)
    for client in (await cluster.client(), server.client):

        def call(client: rio.Client = client) -> Awaitable[str]:
            return client.send(Parrot, "polly", message)

        assert await call() == "hello"
        assert await frames_per_call(call, in_flight) == {}


async def test_a_call_through_a_reference_runs_one_python_frame_of_ours(
    cluster: Cluster,
) -> None:
    server = await cluster.server(Parrot)
    for client in (await cluster.client(), server.client):
        parrot = client.ref(Parrot, "polly")
        await parrot.echo(Echo("first"))
        assert await frames_per_call(lambda: parrot.echo(Echo("hello"))) == {  # noqa: B023
            "_make_typed_method.<locals>.send": 1
        }


async def test_an_object_calls_another_with_two_python_frames_of_ours_and_by_a_reference_with_one(
    cluster: Cluster,
) -> None:
    client = (await cluster.server(Parrot)).client
    assert await client.send(Parrot, "polly", EchoOften("jack")) == [
        {"Sender.send": 1, "ServiceObject._context": 1},
        {"_make_typed_method.<locals>.send": 1},
    ]


# --- what users see -------------------------------------------------------------------------------


def test_a_client_shows_what_is_for_users() -> None:
    client = rio.Client("memory://")
    for shown in (rio.Client, client):
        assert [name for name in dir(shown) if not name.startswith("_")] == [
            *["admin", "close", "members", "ping", "ref", "send", "start", "subscribe"],
            *["tell", "timeout"],
        ]


def test_a_subscription_shows_what_is_for_users() -> None:
    subscription = rio.Client("memory://").subscribe(Parrot, "polly")
    for shown in (rio.Subscription, subscription):
        assert [name for name in dir(shown) if not name.startswith("_")] == [
            *["close", "missed", "moves"]
        ]


@pytest.mark.parametrize("cls", [rio.Client, rio.Subscription, rio.AdminCommand])
def test_what_users_see_is_explained(cls: type) -> None:
    shown = [name for name in dir(cls) if not name.startswith("_")]
    assert [name for name in shown if not getattr(cls, name).__doc__] == []
    assert ":raises NotExecuted:" in str(rio.Client.send.__doc__)


async def test_a_subclass_may_override_send(cluster: Cluster) -> None:
    class Loud(rio.Client):
        def send(self, object_type: Any, id: str, message: Any, /, **options: Any) -> Any:
            return super().send(object_type, id, Echo(message.text.upper()), **options)

    await cluster.server(Parrot)
    async with Loud(cluster.storage) as client:
        assert await client.send(Parrot, "polly", Echo("hello")) == "HELLO"
        assert await client.ref(Parrot, "polly").echo(Echo("hello")) == "HELLO"


# --- opening and refusing -------------------------------------------------------------------------


async def test_a_client_that_is_not_open_says_so() -> None:
    with pytest.raises(RuntimeError, match="this client is not open: use it as `async with"):
        rio.Client("memory://").send(Parrot, "polly", Echo("hello"))


async def test_a_client_that_cannot_read_the_members_closes_its_storage_and_stays_closed() -> None:
    class BrokenAccess(StorageAccess):
        closed = False

        async def read_members(self) -> MembershipSnapshot:
            raise StorageUnavailable("the disk is on fire")

        async def close(self) -> None:
            self.closed = True
            await super().close()

    access = BrokenAccess(rio.open_storage("memory://"))
    client = client_of(Router(access, timeout=1.0))
    with pytest.raises(StorageUnavailable, match="the disk is on fire"):
        await client.start()
    assert access.closed
    with pytest.raises(RuntimeError, match="this client is not open"):
        client.send(Parrot, "polly", Echo("hello"))


async def test_a_client_says_that_no_server_is_in_a_memory_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match=r"memory:// is a new, empty .* server\.client"):
        await rio.Client("memory://").start()


async def test_what_is_no_command_is_refused(cluster: Cluster) -> None:
    client = await cluster.client()
    with pytest.raises(TypeError, match=r"admin\(\) takes a rio.AdminCommand, got 'stop'"):
        await client.admin("stop")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("object_type", "id"), [("", "polly"), ("Parrot", ""), (Parrot, "x" * 513)]
)
def test_a_subscription_to_what_cannot_be_is_refused_at_once(object_type: Any, id: str) -> None:
    with pytest.raises(BadIdentity):
        rio.Client("memory://").subscribe(object_type, id)
