"""A client goes on reading its membership, whatever a read meets."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import rio
from rio.client import members
from rio.contracts.membership import MembershipSnapshot
from rio.errors import NoServersAvailable, NotExecuted
from rio.storage.local import LocalMembershipStorage
from tests.server.harness import Cluster, until

pytestmark = pytest.mark.virtual_time


class Echo(rio.Message[str]):
    text: str


class Parrot(rio.ServiceObject):
    @rio.handler
    def echo(self, message: Echo) -> str:
        return message.text


@pytest.mark.parametrize(
    "failure",
    [ConnectionResetError("reset"), ValueError("odd"), asyncio.CancelledError(), TimeoutError()],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_read_that_raises_anything_is_followed_by_the_next(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    monkeypatch.setattr(members, "REPEAT_DELAY", 0.01)
    client = await cluster.client(refresh_interval=0.01)
    reads = 0

    async def fail(_: object) -> MembershipSnapshot:
        nonlocal reads
        reads += 1
        raise failure

    with monkeypatch.context() as patched:
        patched.setattr(LocalMembershipStorage, "snapshot", fail)
        await until(lambda: reads >= 3)
        if not isinstance(failure, asyncio.CancelledError):
            with pytest.raises(NoServersAvailable, match=r"the members of .* cannot be read"):
                await client.send(Parrot, "polly", Echo("hello"), timeout=0.2)
    await cluster.server(Parrot)
    assert await client.send(Parrot, "polly", Echo("hello")) == "hello"


async def test_a_read_that_never_returns_is_given_up(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "READ_TIMEOUT", 0.05)
    client = await cluster.client(refresh_interval=0.01)

    async def hang(_: object) -> MembershipSnapshot:
        await asyncio.Event().wait()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(LocalMembershipStorage, "snapshot", hang)
        with pytest.raises(NoServersAvailable, match=r"no answer within 0\.05 seconds"):
            await client.send(Parrot, "polly", Echo("hello"), timeout=1.0)
    await cluster.server(Parrot)
    assert await client.send(Parrot, "polly", Echo("hello")) == "hello"


async def test_a_server_that_is_dialled_with_an_unexpected_error_is_dialled_again(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cluster.server(Parrot)
    client = await cluster.client()

    def fail(*_: object) -> Any:
        raise UnicodeError("label too long")

    with monkeypatch.context() as patched:
        patched.setattr(client._router._access, "connect", fail)
        with pytest.raises(NotExecuted, match="label too long"):
            await client.send(Parrot, "polly", Echo("hello"), timeout=0.3)
    assert await client.send(Parrot, "polly", Echo("hello")) == "hello"
