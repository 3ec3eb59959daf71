"""A client on a loop whose tasks run their first step before ``create_task`` returns."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

import rio
from rio import background
from rio.contracts.membership import MembershipSnapshot
from rio.errors import NotExecuted, StorageUnavailable
from rio.storage.local import LocalMembershipStorage
from tests.server.harness import Cluster, until


class Echo(rio.Message[str]):
    text: str


class Parrot(rio.ServiceObject):
    @rio.handler
    def echo(self, message: Echo) -> str:
        return message.text


needs_eager_tasks = pytest.mark.skipif(
    sys.version_info < (3, 12), reason="asyncio.eager_task_factory is new in Python 3.12"
)


def make_eager() -> None:
    factory: Any = asyncio.eager_task_factory  # type: ignore[attr-defined, unused-ignore]
    asyncio.get_running_loop().set_task_factory(factory)


async def test_a_task_of_ours_does_not_begin_before_its_owner_has_it() -> None:
    def refuse(*_: object, **__: object) -> Any:
        raise AssertionError("a factory of the program may run the task at once")

    steps: list[str] = []

    async def work() -> None:
        steps.append("begun")

    loop = asyncio.get_running_loop()
    loop.set_task_factory(refuse)
    try:
        task = background.start(work(), "named")
    finally:
        loop.set_task_factory(None)
    assert (steps, task.get_name()) == ([], "named")
    await task
    assert steps == ["begun"]


@needs_eager_tasks
async def test_a_client_with_eager_tasks_reads_the_members_after_an_outage(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_eager()
    client = await cluster.client(refresh_interval=0.01)
    reads = 0

    async def fail(_: object) -> MembershipSnapshot:
        nonlocal reads
        reads += 1
        raise StorageUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(LocalMembershipStorage, "snapshot", fail)
        await until(lambda: reads >= 3)
    await cluster.server(Parrot)
    assert await client.send(Parrot, "polly", Echo("hello")) == "hello"


@needs_eager_tasks
async def test_a_client_with_eager_tasks_dials_again_what_failed_at_once(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_eager()
    await cluster.server(Parrot)
    client = await cluster.client()

    async def fail(*_: object) -> Any:
        raise OSError("no route")

    with monkeypatch.context() as patched:
        patched.setattr(client._router._access, "connect", fail)
        with pytest.raises(NotExecuted, match="no route"):
            await client.send(Parrot, "polly", Echo("hello"), timeout=0.3)
    assert await client.send(Parrot, "polly", Echo("hello")) == "hello"
