"""Bad input and bad handlers: the server says what is wrong, lives on, and loses nothing."""

from __future__ import annotations

import asyncio
import random
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

import rio
from rio._core.wire import Kind
from rio.client.access import StorageAccess
from rio.client.client import client_of
from rio.client.router import Router
from rio.errors import (
    BadIdentity,
    BadMessage,
    BadRegistration,
    BadReply,
    Deadlock,
    FrameTooLarge,
    HandlerFailed,
    NotExecuted,
    ReplyTooLarge,
    UnknownMessage,
    UnknownType,
)
from rio.transport.protocol import VERSION, Hello, write_hello
from tests.server.harness import Cluster, Probe, RawPeer, activation, until


class Echo(rio.Message[str], readonly=True):
    text: str


class Store(rio.Message[None]):
    amount: int
    tags: list[str] = []  # noqa: RUF012  # msgspec copies it


class Misbehave(rio.Message[int]):
    how: str
    wait_first: bool = False


class MisbehavePlainly(rio.Message[int]):
    how: str


class Descend(rio.Message[int]):
    depth: int


class Fat(rio.Message[bytes]):
    size: int


class Bitter(rio.ApplicationError, type_name="test_hostile.Bitter"):
    pill: object


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")

    __repr__ = __str__


class UnspeakableOutcome(rio.ApplicationError, type_name="test_hostile.UnspeakableOutcome"):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def misbehave(how: str) -> Any:
    match how:
        case "raises":
            raise ValueError("on purpose")
        case "raises what has no text":
            raise Unspeakable
        case "raises half a character":
            raise ValueError("file \udcff")
        case "raises an outcome that has no text":
            raise UnspeakableOutcome
        case "raises an outcome that cannot travel":
            raise Bitter(pill=object())
        case "raises a huge text":
            raise ValueError("x" * 10_000_000)
        case "raises a huge outcome":
            raise Bitter(pill="x" * 10_000_000)
        case "exits":
            sys.exit(3)
        case "raises a base exception":
            raise BaseException("no exception at all")
        case "raises a stop iteration":
            raise StopIteration("stop")
        case "raises a generator exit":
            raise GeneratorExit
        case "raises a cancellation":
            raise asyncio.CancelledError("not asked for")
        case "recurses":
            return misbehave(how)
        case "returns a string":
            return "seven"
        case "returns nothing":
            return None
        case "returns a coroutine":
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            return future
        case "returns half a character":
            return "\udcff"
        case "returns what refers to itself":
            loop: list[Any] = []
            loop.append(loop)
            return loop
    raise AssertionError(how)


FAULTS = {
    "raises": (HandlerFailed, "ValueError: on purpose"),
    "raises what has no text": (HandlerFailed, r"Unspeakable \(its text cannot be read\)"),
    "raises half a character": (HandlerFailed, r"ValueError: file \\udcff"),
    "raises an outcome that has no text": (
        HandlerFailed,
        r"UnspeakableOutcome \(its text cannot be read\), which cannot be sent whole:"
        r" RuntimeError: not even this",
    ),
    "raises an outcome that cannot travel": (
        HandlerFailed,
        "Bitter: .*, which cannot be sent whole: TypeError: application error .*Bitter cannot"
        " travel",
    ),
    "raises a huge text": (HandlerFailed, "ValueError: xxx"),
    "raises a huge outcome": (ReplyTooLarge, "the answer was a Bitter that takes 200000.. bytes"),
    "exits": (HandlerFailed, r"sys\.exit\(3\)"),
    "raises a base exception": (HandlerFailed, "BaseException: no exception at all"),
    "raises a stop iteration": (HandlerFailed, "stop"),
    "raises a generator exit": (HandlerFailed, "GeneratorExit"),
    "raises a cancellation": (HandlerFailed, "CancelledError"),
    "recurses": (HandlerFailed, "RecursionError"),
    "returns a string": (BadReply, "returned a str, which is not what it declares"),
    "returns nothing": (BadReply, "returned a NoneType, which is not what it declares"),
    "returns a coroutine": (BadReply, "Future"),
    "returns half a character": (BadReply, "str"),
    "returns what refers to itself": (BadReply, "nested too deeply"),
}


class Victim(rio.ServiceObject):
    @rio.handler
    def echo(self, message: Echo) -> str:
        return message.text

    @rio.handler
    async def store(self, message: Store, app: rio.AppData) -> None:
        app.get(Probe).note(f"stored {message.amount}")

    @rio.handler
    async def misbehave(self, message: Misbehave) -> int:
        if message.wait_first:
            await asyncio.sleep(0)
        return misbehave(message.how)  # type: ignore[no-any-return]

    @rio.handler
    def misbehave_plainly(self, message: MisbehavePlainly) -> int:
        return misbehave(message.how)  # type: ignore[no-any-return]

    @rio.handler
    async def descend(self, message: Descend) -> int:
        return await self.send(Victim, f"{self.id}+", Descend(message.depth + 1))

    @rio.handler
    def fat(self, message: Fat) -> bytes:
        return bytes(message.size)


@pytest.fixture
async def server(cluster: Cluster) -> AsyncIterator[rio.Server]:
    """A server that still answers after the test, and has nothing left in flight."""
    server = await cluster.server(Victim)
    yield server
    async with rio.Client(cluster.storage) as client:
        assert await client.send(Victim, "after", Echo("alive")) == "alive"
        await until(lambda: server.statistics().in_flight == 0)


@pytest.fixture
async def client(cluster: Cluster, server: rio.Server) -> rio.Client:
    return await cluster.client()


def request(
    number: int,
    *,
    type: Any = "Victim",
    id: Any = "a",
    message: Any = "Echo",
    timeout: Any = 1000,
    context: Any = None,
    payload: Any,
) -> bytes:
    return msgspec.msgpack.encode(
        (Kind.REQUEST, number, type, id, message, timeout, context, payload)
    )


# --- calls that make no sense ---------------------------------------------------------------------


async def test_a_type_that_is_not_there(client: rio.Client, server: rio.Server) -> None:
    with pytest.raises(
        UnknownType, match="does not host objects of type 'Nobody'; it hosts: Victim"
    ):
        await client.send("Nobody", "a", Echo("x"))


async def test_a_message_that_is_not_handled(client: rio.Client, server: rio.Server) -> None:
    class Unheard(rio.Message[None]):
        pass

    with pytest.raises(
        UnknownMessage,
        match="'Victim' has no handler for message 'Unheard'; it handles: Descend, Echo, Fat",
    ):
        await client.send(Victim, "a", Unheard())
    assert server.statistics().live_objects == 0, "nothing was activated for it"


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"amount": "much"}, r"\$\.amount"),
        ({"amount": 1, "tags": ["a", 2]}, r"\$\.tags\[1\]"),
        ({}, "missing required field `amount`"),
        ([1], "Expected `object`, got `array`"),
        (None, "Expected `object`, got `None`"),
        (7, "Expected `object`, got `int`"),
    ],
    ids=str,
)
async def test_a_payload_that_does_not_fit_names_the_field(
    client: rio.Client, probe: Probe, payload: Any, path: str
) -> None:
    with pytest.raises(BadMessage, match=rf"the payload does not decode into .*Store: .*{path}"):
        await client.send(Victim, "a", rio.DynamicMessage("Store", payload))
    await client.send(Victim, "a", Store(1))
    assert probe.log == ["stored 1"]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x81\xa6amount",
        b"\x81\xa6amount\x01\x00",
        b"\x91" * 100_000,
        b"\xdd\xff\xff\xff\xff",
    ],
    ids=repr,
)
async def test_a_payload_that_is_no_messagepack_is_refused_and_the_connection_goes_on(
    server: rio.Server, probe: Probe, payload: bytes
) -> None:
    async with await RawPeer.connect(server) as peer:
        whole = request(1, message="Store", payload=0)
        peer.send(whole[:-1] + payload)
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 1, "bad_message")
        assert "Store" in text
        peer.send(request(2, payload={"text": "x"}))
        assert await peer.frame() == [Kind.RESPONSE, 2, "x"]
    assert probe.log == []


@pytest.mark.parametrize(
    "id",
    ["", "x" * 513, "é" * 257, "\ud800"],
    ids=["empty", "too long", "too long in bytes", "no text"],
)
async def test_an_id_that_does_not_fit_is_refused_before_it_is_sent(
    client: rio.Client, server: rio.Server, id: str
) -> None:
    for send in (
        lambda: client.send(Victim, id, Echo("x")),
        lambda: client.ref(Victim, id).echo(Echo("x")),
    ):
        with pytest.raises(BadIdentity):
            await send()
    assert server.statistics().calls == 0


@pytest.mark.parametrize("id", [7, None, b"bytes", ["a"]], ids=repr)
async def test_an_id_that_is_no_string_is_refused_before_it_is_sent(
    client: rio.Client, server: rio.Server, id: Any
) -> None:
    with pytest.raises(BadIdentity):
        await client.send(Victim, id, Echo("x"))
    assert server.statistics().calls == 0


async def test_the_longest_id_works(client: rio.Client) -> None:
    assert await client.send(Victim, "x" * 512, Echo("fits")) == "fits"
    assert await client.send(Victim, "\x00 /😀:\n", Echo("fits")) == "fits"


@pytest.mark.parametrize("message", [None, 7, {"text": "x"}, Echo, "Echo"], ids=repr)
async def test_what_is_no_message_is_refused_before_it_is_sent(
    client: rio.Client, message: Any
) -> None:
    with pytest.raises(TypeError):
        await client.send(Victim, "a", message)


@pytest.mark.parametrize("fault", ["type", "id", "message"])
@pytest.mark.parametrize("value", ["", "x" * 600], ids=["empty", "too long"])
async def test_names_on_the_wire_that_do_not_fit_are_refused_and_the_connection_goes_on(
    server: rio.Server, fault: str, value: str
) -> None:
    async with await RawPeer.connect(server) as peer:
        peer.send(request(1, payload={"text": "x"}, **{fault: value}))
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 1, "bad_identity")
        assert "bytes" in text
        peer.send(request(2, payload={"text": "x"}))
        assert await peer.frame() == [Kind.RESPONSE, 2, "x"]


@pytest.mark.parametrize(
    "fields",
    [
        {"type": 7},
        {"id": None},
        {"id": b"bytes"},
        {"message": 1.5},
        {"timeout": -1},
        {"timeout": "soon"},
        {"context": 3},
    ],
    ids=str,
)
async def test_a_request_of_the_wrong_shape_is_said_and_the_connection_closed(
    server: rio.Server, fields: dict[str, Any]
) -> None:
    async with await RawPeer.connect(server) as peer:
        peer.send(request(1, payload={"text": "x"}, **fields))
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 0, "protocol_error")
        assert " of a request must be " in text
        assert await peer.closed()


async def test_a_context_that_makes_no_sense_harms_only_the_call_that_brings_it(
    server: rio.Server, client: rio.Client
) -> None:
    async with await RawPeer.connect(server) as peer:
        peer.send(request(1, message="Descend", context=b"\xc1nonsense", payload={"depth": 0}))
        kind, *_ = await peer.frame()
        assert kind == Kind.ERROR
    assert await client.send(Victim, "a", Echo("x")) == "x"


# --- sizes ----------------------------------------------------------------------------------------


async def test_a_message_larger_than_a_frame_is_refused_before_it_is_sent(
    client: rio.Client, server: rio.Server
) -> None:
    await client.send(Victim, "a", Echo("x"))
    with pytest.raises(
        FrameTooLarge, match=r"Echo to Victim/a takes .* bytes, the frame limit is 4194304"
    ):
        await client.send(Victim, "a", Echo("x" * (4 * 1024 * 1024)))
    with pytest.raises(FrameTooLarge):
        await client.send(Victim, "a place that is not known", Echo("x" * (4 * 1024 * 1024)))
    assert await client.send(Victim, "a", Echo("x" * (4 * 1024 * 1024 - 200))) == "x" * (
        4 * 1024 * 1024 - 200
    )


async def test_a_reply_larger_than_a_frame_is_told(client: rio.Client, server: rio.Server) -> None:
    with pytest.raises(
        ReplyTooLarge,
        match=r"the reply of Victim/a to Fat takes 5000005 bytes, the frame limit is 4194304",
    ):
        await client.send(Victim, "a", Fat(5_000_000))
    assert len(await client.send(Victim, "a", Fat(4_000_000))) == 4_000_000


@pytest.mark.parametrize("size", [4 * 1024 * 1024 + 1, 2**32 - 1])
async def test_a_frame_that_announces_too_much_is_refused_before_it_is_buffered(
    server: rio.Server, size: int
) -> None:
    async with await RawPeer.connect(server) as peer:
        peer.writer.write(size.to_bytes(4, "big") + b"\x98")
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 0, "frame_too_large")
        assert str(size) in text
        (connection,) = server._catalog.dispatcher.connections or [None]
        assert connection is None or connection.reader.capacity <= 256 * 1024
        assert await peer.closed()


async def test_a_request_that_arrives_byte_by_byte_is_answered(server: rio.Server) -> None:
    async with await RawPeer.connect(server) as peer:
        body = request(1, payload={"text": "slowly"})
        for byte in len(body).to_bytes(4, "big") + body:
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        assert await peer.frame() == [Kind.RESPONSE, 1, "slowly"]


# --- handlers that misbehave ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["plain", "before an await", "after an await"])
@pytest.mark.parametrize("how", FAULTS)
async def test_a_handler_that_misbehaves_harms_only_its_own_call(
    client: rio.Client, server: rio.Server, caplog: pytest.LogCaptureFixture, how: str, kind: str
) -> None:
    error, text = FAULTS[how]
    await client.send(Victim, "other", Echo("x"))
    message = (
        MisbehavePlainly(how)
        if kind == "plain"
        else Misbehave(how, wait_first=kind == "after an await")
    )
    with pytest.raises(error, match=text):
        await client.send(Victim, "a", message)
    assert await client.send(Victim, "a", Echo("again")) == "again"
    assert await client.send(Victim, "other", Echo("still")) == "still"
    assert activation(server, Victim, "a").turn is None
    if error is HandlerFailed and "outcome" not in how:
        assert "Victim/a failed in" in caplog.text
    assert len(client._router.pool) == 1, "the connection has not been lost"
    assert server.statistics().connections == 1


async def test_a_handler_that_calls_on_without_end_is_cut_off(client: rio.Client) -> None:
    with pytest.raises(Deadlock, match="a chain of 64 calls within calls does not end"):
        await client.send(Victim, "v", Descend(0))


async def test_a_handler_that_blocks_the_loop_for_a_while_delays_the_others_and_no_more(
    cluster: Cluster,
) -> None:
    class Block(rio.Message[None]):
        pass

    class Blocker(rio.ServiceObject):
        @rio.handler
        def block(self, message: Block) -> None:
            time.sleep(0.3)

        @rio.handler
        def echo(self, message: Echo) -> str:
            return message.text

    server = await cluster.server(Blocker)
    client = await cluster.client()
    calls = [client.send(Blocker, f"b{number}", Echo(str(number))) for number in range(10)]
    blocking = client.send(Blocker, "b", Block())
    calls += [client.send(Blocker, f"b{number}", Echo(str(number))) for number in range(10, 20)]
    assert await asyncio.gather(*calls) == [str(number) for number in range(20)]
    await blocking
    assert server.statistics().fenced == 0


# --- peers that are no clients of ours ------------------------------------------------------------


async def test_a_peer_of_another_version_is_told_which_is_spoken(server: rio.Server) -> None:
    async with await RawPeer.connect(server, greet=False) as peer:
        peer.send(write_hello(Hello(VERSION + 1, "client")))
        kind, id, code, text, detail = await peer.frame()
        assert (kind, id, code, detail) == (Kind.ERROR, 0, "protocol_version", [VERSION])
        assert (
            text
            == f"this side speaks version {VERSION} of the protocol, the peer version {VERSION + 1}"
        )
        assert await peer.closed()


async def test_a_client_of_another_version_says_so(cluster: Cluster, server: rio.Server) -> None:
    class NewerAccess(StorageAccess):
        def introduction(self) -> Hello:
            return Hello(VERSION + 1, "client")

    async with client_of(Router(NewerAccess(cluster.storage), timeout=30.0)) as client:
        with pytest.raises(
            NotExecuted,
            match=f"this side speaks version {VERSION} of the protocol, the peer version"
            f" {VERSION + 1}",
        ):
            await client.send(Victim, "a", Echo("x"), timeout=0.5)


@pytest.mark.parametrize(
    "body",
    [
        request(1, payload={"text": "x"}),
        msgspec.msgpack.encode((Kind.PING, 1)),
        msgspec.msgpack.encode((Kind.CANCEL, 1)),
        msgspec.msgpack.encode((Kind.GOAWAY, 1)),
        msgspec.msgpack.encode((Kind.END, 1)),
        msgspec.msgpack.encode((Kind.HELLO, 0, {"version": "one"})),
        msgspec.msgpack.encode((Kind.HELLO, 0)),
        msgspec.msgpack.encode((99, 0)),
        b"",
        b"\xc1",
        b"GET / HTTP/1.1",
    ],
    ids=repr,
)
async def test_a_first_frame_that_is_no_greeting_is_refused(
    server: rio.Server, body: bytes
) -> None:
    async with await RawPeer.connect(server, greet=False) as peer:
        peer.send(body)
        kind, id, code, _, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 0, "protocol_error")
        assert await peer.closed()
    assert server.statistics().calls == 0
    assert not server._asked_to_stop.is_set()


async def test_a_browser_is_shown_the_door(server: rio.Server) -> None:
    async with await RawPeer.connect(server, greet=False) as peer:
        peer.writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert await peer.closed()


@pytest.mark.parametrize(
    "body",
    [
        b"\xc0",
        b"\x90",
        b"\x91\x01",
        b"\x92\xa1x\x01",
        msgspec.msgpack.encode((42, 1)),
        msgspec.msgpack.encode((1, 1)),
    ],
    ids=repr,
)
async def test_a_later_frame_that_makes_no_sense_is_said_and_the_connection_closed(
    server: rio.Server, body: bytes
) -> None:
    async with await RawPeer.connect(server) as peer:
        peer.send(body)
        kind, id, code, _, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 0, "protocol_error")
        assert await peer.closed()


async def test_a_peer_that_says_nothing_is_not_waited_for(
    server: rio.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.transport.server_connection.HANDSHAKE_TIMEOUT", 0.02)
    async with await RawPeer.connect(server, greet=False) as peer:
        assert await peer.closed()


@pytest.mark.parametrize("greet", [False, True], ids=["at once", "after the greeting"])
async def test_random_bytes_harm_nobody(
    server: rio.Server, client: rio.Client, greet: bool
) -> None:
    rng = random.Random(7)
    for _ in range(100):
        peer = await RawPeer.connect(server, greet=greet)
        body = rng.randbytes(rng.randrange(1, 200))
        peer.writer.write(body if rng.random() < 0.3 else len(body).to_bytes(4, "big") + body)
        if rng.random() < 0.5:
            peer.writer.write(rng.randbytes(rng.randrange(1, 5000)))
        await peer.close()
    assert await client.send(Victim, "a", Echo("x")) == "x"


async def test_requests_with_bits_flipped_harm_nobody(
    server: rio.Server, client: rio.Client, probe: Probe
) -> None:
    rng = random.Random(11)
    whole = request(1, message="Store", payload={"amount": 7, "tags": ["a", "b"]})
    for _ in range(300):
        async with await RawPeer.connect(server) as peer:
            flipped = bytearray(whole)
            flipped[rng.randrange(len(whole))] ^= 1 << rng.randrange(8)
            peer.send(bytes(flipped))
            peer.writer.write_eof()
            assert await peer.closed()
    assert await client.send(Victim, "a", Echo("x")) == "x"


async def test_a_peer_that_stops_sending_is_taken_for_gone(
    server: rio.Server, probe: Probe
) -> None:
    async with await RawPeer.connect(server) as peer:
        peer.send(request(1, payload={"text": "last words"}))
        peer.writer.write_eof()
        assert await peer.frame() == [Kind.RESPONSE, 1, "last words"], (
            "what was answered before is still sent"
        )
        assert await peer.closed()


async def test_a_peer_that_never_reads_is_cut_off_and_costs_bounded_room(
    server: rio.Server, client: rio.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rio.transport.server_connection.STALL_TIMEOUT", 0.1)
    peer = await RawPeer.connect(server)
    peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
    connection = next(
        connection
        for connection in server._catalog.dispatcher.connections
        if connection.peer is not None
    )
    largest = 0
    for number in range(1, 400):
        peer.send(request(number, message="Fat", payload={"size": 100_000}))
        await asyncio.sleep(0)
        largest = max(largest, connection.unsent)
    await until(lambda: connection not in server._catalog.dispatcher.connections)
    assert largest <= 4 * 1024 * 1024
    assert await client.send(Victim, "a", Echo("x")) == "x"
    await peer.close()


async def test_a_request_id_that_is_in_use_is_refused(cluster: Cluster, probe: Probe) -> None:
    class Wait(rio.Message[None]):
        pass

    class Waiter(rio.ServiceObject):
        @rio.handler
        async def wait(self, message: Wait, app: rio.AppData) -> None:
            app.get(Probe).note("waits")
            await app.get(Probe).gate("never").wait()

    server = await cluster.server(Waiter)
    async with await RawPeer.connect(server) as peer:
        for _ in range(2):
            peer.send(request(1, type="Waiter", message="Wait", payload={}))
        kind, id, code, text, _ = await peer.frame()
        assert (kind, id, code) == (Kind.ERROR, 0, "protocol_error")
        assert text == "request id 1 is in use by a call that has not ended"
        assert await peer.closed()
    await until(lambda: server.statistics().in_flight == 0)


async def test_a_thousand_calls_cancelled_at_random_moments_answer_no_wrong_caller(
    client: rio.Client, server: rio.Server
) -> None:
    rng = random.Random(3)

    async def call(number: int) -> None:
        try:
            async with asyncio.timeout(rng.choice([0, 0, 0.0005, 0.001, 0.002, 0.005, None])):
                assert await client.send(Victim, f"v{number % 20}", Echo(str(number))) == str(
                    number
                )
        except TimeoutError:
            cancelled.append(number)

    cancelled: list[int] = []
    for start in range(0, 1000, 100):
        await asyncio.gather(*(call(number) for number in range(start, start + 100)))
    assert 0 < len(cancelled) < 1000
    await until(lambda: server.statistics().in_flight == 0)
    assert await asyncio.gather(
        *(client.send(Victim, "v", Echo(str(number))) for number in range(100))
    ) == [str(n) for n in range(100)]


# --- names that are not for users -----------------------------------------------------------------


def test_reserved_type_names_are_refused() -> None:
    class Mine(rio.ServiceObject, type_name="rio.mine"):
        pass

    with pytest.raises(BadRegistration, match=r"type names that start with 'rio\.' are reserved"):
        rio.Server(rio.Registry(Mine), storage="memory://")


def test_reserved_message_names_are_refused() -> None:
    class Sneaky(rio.Message[None], type_name="rio.shutdown"):
        pass

    class Mine(rio.ServiceObject):
        @rio.handler
        def sneaky(self, message: Sneaky) -> None: ...

    with pytest.raises(
        BadRegistration,
        match=r"handles 'rio\.shutdown': names that start with 'rio\.' are reserved",
    ):
        rio.Server(rio.Registry(Mine), storage="memory://")


@pytest.mark.parametrize(
    "name", ["rio.load", "rio.private", "__init__", "_activation", "echo", "before_load"]
)
async def test_nothing_but_registered_messages_can_be_called(client: rio.Client, name: str) -> None:
    with pytest.raises(UnknownMessage):
        await client.send(Victim, "a", rio.DynamicMessage(name, {"text": "x"}))
