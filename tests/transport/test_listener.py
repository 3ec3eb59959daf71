"""The socket on which a server waits for connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from typing import cast

import pytest

from rio.identity import Address
from rio.transport.listener import Listener
from tests.server.harness import until

pytestmark = pytest.mark.both_loops


class Kept(asyncio.Protocol):
    def __init__(self, made: list[asyncio.Transport]) -> None:
        self._made = made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._made.append(cast(asyncio.Transport, transport))


@pytest.fixture
def made() -> list[asyncio.Transport]:
    """The connections that were made."""
    return []


@pytest.fixture
async def listener(made: list[asyncio.Transport]) -> AsyncIterator[Listener]:
    listener = Listener(lambda: Kept(made), 10)
    yield listener
    for each in made:
        each.abort()
    await listener.close()


def call_before_what_is_accepted(what: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_soon(what)


def call_after_what_is_accepted(what: Callable[[], object]) -> None:
    asyncio.get_running_loop().call_later(0, what)


CALLS = [call_before_what_is_accepted, call_after_what_is_accepted]


@pytest.mark.parametrize("call", CALLS)
async def test_a_connection_that_comes_as_the_listener_begins_to_rest_is_kept(
    listener: Listener, made: list[asyncio.Transport], call: Callable[[Callable[[], object]], None]
) -> None:
    address = await listener.bind(Address("127.0.0.1", 0))
    await listener.start()
    with socket.create_connection((address.host, address.port)):
        call(listener.rest)
        await until(lambda: listener.rests)
        await listener.wake()
        await until(lambda: made)


@pytest.mark.parametrize("call", CALLS)
async def test_a_connection_that_was_accepted_as_the_listener_closes_gets_its_protocol(
    listener: Listener, made: list[asyncio.Transport], call: Callable[[Callable[[], object]], None]
) -> None:
    address = await listener.bind(Address("127.0.0.1", 0))
    await listener.start()
    closing: list[asyncio.Future[None]] = []
    with socket.create_connection((address.host, address.port)):
        call(lambda: closing.append(asyncio.ensure_future(listener.close())))
        await until(lambda: closing)
        await closing[0]
        await until(lambda: made)
    with socket.socket() as another:
        another.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        another.bind((address.host, address.port))
        another.listen()
