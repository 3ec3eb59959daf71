"""An event loop that is blocked is told of, with the code that blocks it."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import rio
from rio.server.loop_watch import UNSEEN
from rio.server.stacks import is_of_the_loop
from tests.server.harness import Cluster, until

CONFIG = rio.ServerConfig(blocked_after=0.2)

Texts = Callable[[], list[str]]


class Block(rio.Message[None]):
    pass


class BlockLater(rio.Message[None]):
    pass


class Blocker(rio.ServiceObject):
    async def after_load(self, app: rio.AppData) -> None:
        if self.id == "hook":
            block(app)

    @rio.handler
    def block(self, message: Block, app: rio.AppData) -> None:
        block(app)

    @rio.handler
    async def block_later(self, message: BlockLater, app: rio.AppData) -> None:
        block(app)


def block(app: rio.AppData) -> None:
    app.get(Told).wait()


class Told:
    """Blocks the loop until the log says so."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts

    def wait(self) -> None:
        while not any("has blocked" in text for text in self._texts()):
            time.sleep(0.01)


@pytest.fixture
def texts(caplog: pytest.LogCaptureFixture) -> Texts:
    return lambda: [record.getMessage() for record in caplog.records if record.name == "rio.server"]


async def _server(cluster: Cluster, texts: Texts, **options: Any) -> rio.Server:
    data = cluster.app_data()
    data.set(Told(texts))
    return await cluster.server(Blocker, app_data=data, **{"config": CONFIG, **options})


@pytest.mark.both_loops
@pytest.mark.parametrize(
    ("id", "message", "in_what"),
    [
        ("a", Block(), "in Block"),
        ("a", BlockLater(), "in BlockLater"),
        ("hook", Block(), "in (lifecycle)"),
    ],
)
async def test_the_log_names_the_handler_that_blocks_the_loop_and_shows_where_it_is(
    cluster: Cluster, texts: Texts, id: str, message: rio.Message[None], in_what: str
) -> None:
    server = await _server(cluster, texts)
    client = await cluster.client()
    await client.send(Blocker, id, message, timeout=30.0)
    blocked = next(text for text in texts() if "has blocked" in text)
    assert blocked.startswith(
        f"Blocker/{id}, {in_what}, has blocked the event loop of {server.address} for 0."
    )
    assert "s of lease left" in blocked
    assert blocked.endswith("time.sleep(0.01)")
    await until(lambda: any("goes on: it stood still for" in text for text in texts()))


async def test_code_that_belongs_to_no_object_is_shown(cluster: Cluster, texts: Texts) -> None:
    await _server(cluster, texts)
    Told(texts).wait()
    (blocked,) = (text for text in texts() if "has blocked" in text)
    assert blocked.startswith("code that belongs to no object has blocked the event loop")
    assert "test_code_that_belongs_to_no_object_is_shown" in blocked


@pytest.mark.both_loops
async def test_a_loop_that_waits_is_not_blocked() -> None:
    loop_thread = threading.get_ident()

    def look() -> None:
        while not is_of_the_loop(sys._current_frames()[loop_thread]):
            time.sleep(0.001)

    await asyncio.to_thread(look)


async def test_a_loop_that_stood_still_without_code_is_told_of_when_it_goes_on(
    cluster: Cluster, texts: Texts
) -> None:
    server = await _server(cluster, texts)
    assert server._watch is not None
    server._watch.stop()  # the thread of a process that is stopped does not look
    server._watch._beat -= 60.0
    await until(lambda: any("stood still for 6" in text and UNSEEN in text for text in texts()))


async def test_nobody_looks_where_no_limit_is_set(cluster: Cluster, texts: Texts) -> None:
    server = await _server(cluster, texts, config=rio.ServerConfig(blocked_after=None))
    assert server._watch is None
