"""``docs/protocol.md`` is true.

Each test vector decodes to the value beside it, and is what we write.
"""

from __future__ import annotations

import ast
import asyncio
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import msgspec
import pytest

import rio.objects.message
from rio import errors
from rio._core import wire
from rio._core.calls import Caller, ClientHalf, MessageCodec
from rio._core.frame import DEFAULT_FRAME_LIMIT, HARD_FRAME_LIMIT, FrameReader, FrameWriter
from rio._core.gossip import MemberTable
from rio._core.wire import Kind
from rio.client import retry
from rio.cluster.gossip import messages as gossip_messages
from rio.objects import system_messages
from rio.security.proof import Proofs
from rio.transport import call_context, protocol
from rio.transport.call_context import Context, Link
from rio.transport.protocol import Hello
from tests.core.node import Wire, settle

pytestmark = pytest.mark.both_loops

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
VECTOR = re.compile(r"^```vector (\w+)\n(.+)\n((?:[0-9a-f ]+\n)+)```$", re.MULTILINE)
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)


class Vector(NamedTuple):
    value: Any
    data: bytes


TEXT = PAGE.read_text()
VECTORS = {
    name: Vector(ast.literal_eval(value), bytes.fromhex(digits))
    for name, value, digits in VECTOR.findall(TEXT)
}
FRAMES = {name: vector for name, vector in VECTORS.items() if not name.startswith("context")}


class Line(ClientHalf):
    """A connection that writes, and has no server."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop())
        self.transport = Wire()
        self.usable = True


class Client:
    """The owner of a caller, and its codecs."""

    def __init__(self) -> None:
        self.caller = Caller(self, self)  # type: ignore[arg-type]
        self.caller.loop = asyncio.get_running_loop()
        self.line = Line()
        self.caller.learn("Account", "ada", self.line)

    def name_of(self, object_type: str) -> str:
        return object_type

    def codec_of(self, message: Any) -> MessageCodec:
        return MessageCodec("Deposit", msgspec.msgpack.encode, msgspec.msgpack.decode)

    def arm(self, deadline: float) -> None: ...
    def withdraw(self, call: Any) -> None: ...


def request(id: int, name: str, payload: bytes, context: bytes | None = None) -> bytes:
    """The bytes that the compiled core writes for these fields."""
    head = [Kind.REQUEST, id, "Account", "ada", name, 30_000, context]
    return b"\x98" + b"".join(map(msgpack.packb, head)) + payload


CHAIN = Context(chain=(Link("Teller", "7", "Transfer", 2**63),))
WITH_TRACE = Context(trace=("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",))
WITH_VALUES = Context(
    values={"tenant": msgspec.Raw(msgpack.packb("acme"))},
    chain=(Link("Teller", "7", "Transfer", 9),),
)

CLUSTER = "6f1ed002ab5595859014ebf0951522d9"
HELLO_OF_A_NODE = Hello(
    protocol.VERSION, "node", 3, "10.0.0.7:7070", CLUSTER, protocol.NODE_FEATURES
)

HELLO_WITH_KEY = Hello(1, "client", key="web", nonce=b"c" * 32)
HELLO_WITH_NONCE = Hello(1, "node", 3, "10.0.0.7:7070", nonce=b"s" * 32)
HELLO_WITH_LIMITS = Hello(protocol.VERSION, "node", frame_limit=100_000, in_flight_limit=100)

OURS: dict[str, Callable[[], bytes]] = {
    "hello_client": lambda: protocol.write_hello(
        Hello(protocol.VERSION, "client", cluster=CLUSTER)
    ),
    "hello_node": lambda: protocol.write_hello(HELLO_OF_A_NODE),
    "hello_limits": lambda: protocol.write_hello(HELLO_WITH_LIMITS),
    "hello_with_key": lambda: protocol.write_hello(HELLO_WITH_KEY),
    "hello_with_nonce": lambda: protocol.write_hello(HELLO_WITH_NONCE),
    "proof": lambda: protocol.write_proof(proof_of_server()),
    "error_version": lambda: protocol.write_error(0, version_mismatch()),
    "request": lambda: request(1, "Deposit", msgpack.packb({"amount": 100})),
    "response": lambda: b"\x93\x02\x01" + msgpack.packb({"amount": 100}),
    "request_nested": lambda: request(
        300, "Deposit", msgpack.packb({"amount": -5}), msgspec.msgpack.encode(CHAIN)
    ),
    "context": lambda: msgspec.msgpack.encode(CHAIN),
    "context_with_a_trace": lambda: msgspec.msgpack.encode(WITH_TRACE),
    "context_not_sampled": lambda: msgspec.msgpack.encode(Context(trace=False)),
    "context_with_values": lambda: msgspec.msgpack.encode(WITH_VALUES),
    "cancel": lambda: protocol.write_bare(Kind.CANCEL, 1),
    "error": lambda: protocol.write_error(
        300, errors.Redirected("Account/ada lives on 10.0.0.8:7070", ["10.0.0.8:7070", 4])
    ),
    "subscribe": lambda: request(
        301, "rio.subscribe", rio.transport.codec.ENCODER.encode(system_messages.Subscribe(1))
    ),
    "event": lambda: wire.write_event(
        1, 1, protocol.write_event_tail("Deposited", msgpack.packb({"amount": 100}))
    ),
    "event_dropped": lambda: wire.write_event(
        1, 50, protocol.write_event_tail(protocol.DROPPED, msgpack.packb(None))
    ),
    "end_client": lambda: protocol.write_bare(Kind.END, 1),
    "end_server": lambda: protocol.write_end(
        1, errors.Unavailable("Account/ada left 10.0.0.7:7070")
    ),
    "ping": lambda: protocol.write_bare(Kind.PING, 302),
    "pong": lambda: protocol.write_bare(Kind.PONG, 302),
    "goaway_draining": lambda: protocol.write_goaway("10.0.0.7:7070 is about to stop"),
    "goaway_stopped": lambda: protocol.write_goaway("10.0.0.7:7070 has stopped", 301),
    "goaway_client": lambda: protocol.write_bare(Kind.GOAWAY, 303),
    "gossip": lambda: protocol.write_gossip(
        gossip_messages.encode(gossip_messages.Ping(4, 3, 12, 0, news(), 77))
    ),
}


def news() -> bytes:
    table = MemberTable()
    table.put(3, 1, 1, b"", ())
    return table.encode([3], snapshot=False)


def proof_of_server() -> bytes:
    hellos = map(protocol.write_hello, (HELLO_WITH_KEY, HELLO_WITH_NONCE))
    return Proofs(*hellos, b"", b"k" * 32).of("server")


def version_mismatch() -> errors.ProtocolVersionMismatch:
    with pytest.raises(errors.ProtocolVersionMismatch) as caught:
        protocol.read_hello(protocol.write_hello(Hello(protocol.VERSION + 1, "client")))
    return caught.value


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table after a heading."""
    section = TEXT.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [
        [cell.strip() for cell in row.split(" | ")]
        for row in ROW.findall(re.sub(r"\| \|$", "|  |", section, flags=re.MULTILINE))
    ][2:]


@pytest.mark.parametrize("name", sorted({*VECTORS, *OURS}))
def test_each_vector_is_what_we_write_and_decodes_to_the_value_beside_it(name: str) -> None:
    value, data = VECTORS[name]
    ours = OURS[name]()
    if name.startswith("context"):
        assert (msgpack.unpackb(data), data) == (value, ours)
        return
    writer = FrameWriter()
    writer.put(ours)
    assert writer.take() == data
    [body] = FrameReader().feed(data)
    assert msgpack.unpackb(body) == value
    assert int.from_bytes(data[:4], "big") == len(body) == len(data) - 4


def test_every_kind_has_a_vector() -> None:
    assert {vector.value[0] for vector in FRAMES.values()} == set(Kind)


def test_the_table_of_kinds_names_them_all() -> None:
    section = TEXT.partition("## Frames")[2].partition("## The handshake")[0]
    named = re.findall(r"^\| (\d+) \| (\w+) \|", section, re.MULTILINE)
    assert {name: int(number) for number, name in named} == {kind.name: kind.value for kind in Kind}


async def test_the_compiled_client_writes_the_request_and_the_cancel_of_the_page() -> None:
    client = Client()
    client.caller.send("Account", "ada", {"amount": 100})
    await settle()
    future = client.caller.send("Account", "ada", {"amount": 100})
    await settle()
    asyncio.ensure_future(future).cancel()
    await settle()
    first, _, cancelled = client.line.transport.writes
    assert first == VECTORS["request"].data
    assert cancelled == VECTORS["cancel"].data[:-1] + b"\x02"


def test_the_compiled_server_writes_the_response_of_the_page() -> None:
    writer = FrameWriter()
    writer.put_response(1, msgpack.packb({"amount": 100}))
    assert writer.take() == VECTORS["response"].data


def test_what_is_read_of_a_vector_is_what_was_meant() -> None:
    bodies = {name: vector.data[4:] for name, vector in FRAMES.items()}
    assert protocol.read_hello(bodies["hello_node"]) == HELLO_OF_A_NODE
    assert protocol.read_error(bodies["error"]) == (
        "redirect",
        "Account/ada lives on 10.0.0.8:7070",
        ["10.0.0.8:7070", 4],
    )
    assert protocol.read_event(bodies["event"]) == (1, "Deposited", msgpack.packb({"amount": 100}))
    assert protocol.read_hello(bodies["hello_limits"]) == HELLO_WITH_LIMITS
    assert protocol.read_hello(bodies["hello_with_key"]) == HELLO_WITH_KEY
    assert protocol.read_proof(bodies["proof"]) == proof_of_server()
    assert protocol.read_goaway(bodies["goaway_stopped"]) == ("10.0.0.7:7070 has stopped", 301)
    assert call_context.read_context(VECTORS["context"].data) == CHAIN
    assert call_context.read_context(VECTORS["context_with_a_trace"].data) == WITH_TRACE
    assert call_context.read_context(VECTORS["context_with_values"].data) == WITH_VALUES


def test_keys_that_are_not_known_are_skipped() -> None:
    assert protocol.read_hello(
        msgpack.packb([0, 0, {"version": 1, "role": "client", "new": [1]}])
    ) == Hello(1, "client")
    assert call_context.read_context(msgpack.packb({"new": 1})) == Context()


def test_every_error_code_is_in_the_table_with_what_the_client_does() -> None:
    table = {cells[0].strip("`"): cells for cells in rows("Errors")}
    assert set(table) == set(errors._CLASS_OF_CODE)
    for code, (_, _, may_have_run, then, *_) in table.items():
        error = errors._CLASS_OF_CODE[code].__new__(errors._CLASS_OF_CODE[code])
        decisions = {retry.decide(error, repeatable=repeatable) for repeatable in (False, True)}
        said = {word for word, decision in WORDS.items() if word in then for word in [decision]}
        assert decisions == said, code
        if isinstance(error, errors.NotExecuted):
            assert may_have_run == "no", code
        if isinstance(error, errors.OutcomeUnknown | errors.CallFailed):
            assert may_have_run == "yes", code


WORDS = {
    "goes there": retry.Next.FOLLOW,
    "another node": retry.Next.ANOTHER,
    "later": retry.Next.LATER,
    "raises": retry.Next.RAISE,
}


def test_the_limits_are_those_of_the_code() -> None:
    limits = TEXT.partition("## Limits")[2]
    assert (
        f"{DEFAULT_FRAME_LIMIT / 2**20:g} MiB, settable for each side up to"
        f" {HARD_FRAME_LIMIT / 2**20:g} MiB" in limits
    )
    assert f"{protocol.MAX_TEXT:,} characters" in limits
    assert f"at most {call_context.MAX_CHAIN} links" in TEXT
    assert f"at most {retry.MAX_REDIRECTS} times" in TEXT
    assert math.isclose(retry.FIRST_DELAY, 0.04)
    assert math.isclose(retry.LONGEST_DELAY, 1.0)
