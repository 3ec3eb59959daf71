"""Frames that are MessagePack, and yet mean nothing: it is the peer that is to blame, and whoever
waits for an answer is told.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgpack
import pytest

from rio._core.frame import ReceiveBuffer
from rio._core.wire import Kind
from rio.cluster.gossip import messages
from rio.errors import ConnectionLost, ProtocolError, UnknownCode, from_code
from rio.transport import protocol
from rio.transport.client_connection import ClientConnection
from rio.transport.protocol import VERSION, Hello
from tests.core.every_method import Owner, Sink
from tests.core.node import frames

pytestmark = pytest.mark.both_loops
NO_TEXT = b"\xa2\xff\xfe"


class Transport(Sink):
    def get_extra_info(self, name: str) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...


def open_client() -> ClientConnection:
    """A connection on which the server has introduced itself."""

    class Client(Owner):
        def lost(self, *_: Any) -> None: ...

    loop = asyncio.get_running_loop()
    client: Any = Client()
    line = ClientConnection(loop, client, Hello(VERSION, "client"), 65_536, ReceiveBuffer())
    line.connection_made(Transport())
    line.receive(frames(protocol.write_hello(Hello(VERSION, "node"))))
    assert line.usable
    return line


@pytest.mark.parametrize(
    ("read", "body"),
    [
        (protocol.read_hello, b"\x93\x00\x00\x82\xa7version\x01\xa4role" + NO_TEXT),
        (protocol.read_error, b"\x95\x03\x01" + NO_TEXT + b"\xa0\xc0"),
        (protocol.read_event, b"\x95\x06\x01\x01" + NO_TEXT + b"\xc0"),
        (protocol.read_goaway, b"\x94\x09\x00" + NO_TEXT + b"\xc0"),
        (protocol.read_goaway, msgpack.packb([9, 0, "", -1])),
        (protocol.read_goaway, b"\x94\x09\x00\xa0\xcf" + b"\xff" * 8 + b"\x00"),
        (messages.decode, b"\x97\x01\x01\x01\x01\x01" + NO_TEXT + b"\x01"),
    ],
)
async def test_text_that_is_none_and_numbers_that_cannot_be_break_the_protocol(
    read: Any, body: bytes
) -> None:
    with pytest.raises(ProtocolError):
        read(body)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        (msgpack.packb([3, 1, "application_error", "no", None]), UnknownCode),
        (b"\x95\x03\x01" + NO_TEXT + b"\xa0\xc0", ConnectionLost),
        (msgpack.packb([3, 1]), ConnectionLost),
    ],
)
async def test_whoever_waits_for_the_answer_to_a_ping_gets_an_error_that_cannot_be_read(
    body: bytes, error: type[Exception]
) -> None:
    line = open_client()
    asked = asyncio.ensure_future(line.request(Kind.PING))
    await asyncio.sleep(0)
    line.receive(frames(body))
    with pytest.raises(error):
        await asyncio.wait_for(asked, 10)


async def test_the_code_of_all_application_errors_tells_no_class() -> None:
    assert isinstance(from_code("application_error", "no", ["Kind", b"\x80"]), UnknownCode)
