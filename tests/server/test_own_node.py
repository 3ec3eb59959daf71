"""Objects of one node call each other without a socket, and often without waiting for the loop.

Nothing else is different.
"""

from __future__ import annotations

import asyncio
import contextvars

import pytest

import rio
from rio.errors import CallTimeout, Deadlock
from tests.server.harness import Cluster, Probe

request: contextvars.ContextVar[str] = contextvars.ContextVar("request", default="none")

pytestmark = pytest.mark.both_loops


class Echo(rio.Message[list[str]]):
    words: list[str]


class EchoThrough(rio.Message[list[str]]):
    through: str
    words: list[str]


class Count(rio.Message[int]):
    calls: int


class Ask(rio.Message[str]):
    ids: list[str]


class Hang(rio.Message[None]):
    pass


class AskThenHang(rio.Message[None]):
    pass


class Speaker(rio.ServiceObject):
    @rio.handler
    async def echo(self, message: Echo) -> list[str]:
        message.words.append(f"{self.id} under {request.get()}")
        request.set(self.id)
        return message.words

    @rio.handler
    async def through(self, message: EchoThrough) -> list[str]:
        request.set("mine")
        words = await self.send(Speaker, message.through, Echo(message.words))
        return [*words, *message.words, request.get()]

    @rio.handler
    async def count(self, message: Count) -> int:
        turns = 0

        async def watch() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        watcher = asyncio.create_task(watch())
        for _ in range(message.calls):
            await self.send(Speaker, "other", Echo([]))
        watcher.cancel()
        return turns

    @rio.handler
    async def ask(self, message: Ask) -> str:
        """Ask the first of the ids with the rest of them. The last one answers."""
        if not message.ids:
            return self.id
        await self.send(Speaker, "bystander", Echo([]))
        return await self.send(Speaker, message.ids[0], Ask(message.ids[1:]))

    @rio.handler
    async def hang(self, message: Hang) -> None:
        await asyncio.Event().wait()

    @rio.handler
    async def ask_then_hang(self, message: AskThenHang, app: rio.AppData) -> None:
        await self.send(Speaker, "bystander", Echo([]))
        call = asyncio.ensure_future(self.send(Speaker, "sleeper", Hang()))
        call.add_done_callback(lambda call: app.get(Probe).note(type(call.exception()).__name__))
        await asyncio.Event().wait()


@pytest.fixture
async def client(cluster: Cluster) -> rio.Client:
    await cluster.server(Speaker)
    return await cluster.client()


async def test_what_is_sent_and_answered_is_a_copy_and_no_context_is_shared(
    client: rio.Client,
) -> None:
    for _ in range(3):  # the second call knows the way
        words = await client.send(Speaker, "a", EchoThrough("b", ["hello"]))
        assert words == ["hello", "b under none", "hello", "mine"]


async def test_a_circle_is_found_after_calls_that_were_answered_at_once(client: rio.Client) -> None:
    assert await client.send(Speaker, "a", Ask(["b", "c", "d"])) == "d"
    with pytest.raises(Deadlock, match=r"Speaker/a.*Speaker/b.*Speaker/c.*Speaker/a"):
        await client.send(Speaker, "a", Ask(["b", "c", "a"]))


@pytest.mark.virtual_time
async def test_a_deadline_is_inherited_after_calls_that_were_answered_at_once(
    client: rio.Client, probe: Probe
) -> None:
    with pytest.raises(CallTimeout):
        await client.send(Speaker, "a", AskThenHang(), timeout=0.2)
    await probe.noted("CallTimeout")


async def test_the_loop_gets_its_turns_while_one_object_calls_another_again_and_again(
    client: rio.Client,
) -> None:
    turns = await client.send(Speaker, "a", Count(6400))
    # 32 calls a turn; a call that the loop's budget has put off is answered in the next one, in
    # which another 32 may follow
    assert turns >= 6400 // 64
