"""The frames that do not come with each message: how their bodies are written and read.

``docs/protocol.md`` describes all frames. The compiled core writes and reads the others.
"""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from rio._core.dispatch import IN_FLIGHT_LIMIT
from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio._core.wire import Kind
from rio.errors import (
    APPLICATION_ERROR,
    CallFailed,
    HandlerFailed,
    ProtocolError,
    ProtocolVersionMismatch,
    ReplyTooLarge,
    RioError,
    WrongServer,
)

VERSION = 1
"""The version of the protocol that this side speaks."""
HANDSHAKE_TIMEOUT = 5.0
"""Seconds that a peer has to introduce itself."""
MAX_TEXT = 16 * 1024
"""Characters of an exception's text, and of its traceback, that are sent."""

encode = msgspec.msgpack.Encoder().encode


# --- HELLO ----------------------------------------------------------------------------------------


CANCEL_ANSWER = "cancel_answer"
"""A feature of nodes: they answer a CANCEL, and so tell whether the call has begun."""
NODE_FEATURES = (CANCEL_ANSWER,)


class Hello(msgspec.Struct, omit_defaults=True):
    """How a side introduces itself. Readers ignore unknown keys, so that later versions can say
    more.
    """

    version: int
    role: str
    """``"client"`` or ``"node"``."""
    generation: int = 0
    """The member number of a node."""
    address: str = ""
    """``host:port`` under which the others reach a node."""
    cluster: str = ""
    """The id of the cluster; empty if this side does not know it."""
    features: tuple[str, ...] = ()
    """What this side can do beyond the first version of the protocol; the other side uses what it
    knows, and ignores the rest.
    """
    frame_limit: int = DEFAULT_FRAME_LIMIT
    """Bytes of the largest frame that this side reads."""
    in_flight_limit: int = IN_FLIGHT_LIMIT
    """Calls that may wait or run on a node."""
    key: str = ""
    """The id of the key by which a client, or the node that connects, proves itself."""
    nonce: bytes = b""
    """A random number. A side that sends one proves itself, and wants a proof."""


def check_cluster(hello: Hello, cluster: str) -> None:
    """Make sure that a peer belongs to the cluster with the id ``cluster``, as far as both know.

    :raises WrongServer: it belongs to another.
    """
    if cluster and hello.cluster and hello.cluster != cluster:
        raise WrongServer(f"this is cluster {cluster}, the peer belongs to {hello.cluster}")


def write_hello(hello: Hello) -> bytes:
    return encode((Kind.HELLO, 0, hello))


def read_hello(body: bytes) -> Hello:
    """The introduction in a HELLO.

    :raises ProtocolError: the frame is no HELLO.
    :raises ProtocolVersionMismatch: the peer speaks another version.
    """
    kind, _, hello = read(body, tuple[int, int, Hello])
    if kind != Kind.HELLO:
        raise ProtocolError(f"the first frame must be a HELLO, not one of kind {kind}")
    if hello.version != VERSION:
        raise ProtocolVersionMismatch(
            f"this side speaks version {VERSION} of the protocol, the peer version {hello.version}",
            [VERSION],
        )
    assert isinstance(hello, Hello)
    return hello


def write_proof(proof: bytes) -> bytes:
    return encode((Kind.PROOF, 0, proof))


def read_proof(body: bytes) -> bytes:
    """The proof in a PROOF.

    :raises ProtocolError: the frame is none.
    """
    kind, _, proof = read(body, tuple[int, int, bytes])
    if kind != Kind.PROOF:
        raise ProtocolError(f"a PROOF must follow the HELLO, not a frame of kind {kind}")
    assert isinstance(proof, bytes)
    return proof


# --- ERROR ----------------------------------------------------------------------------------------


def write_error(id: int, error: BaseException) -> bytes:
    """The ERROR that answers request ``id``; with 0 it is about the whole connection.

    An application's error class may do anything: this function raises nothing.
    """
    if not isinstance(error, RioError) or not error.code:
        error = HandlerFailed(text_of(error), [type(error).__name__, ""])
    try:
        return encode((Kind.ERROR, id, error.code, str(error.message), error.detail))
    except BaseException as cause:
        text = f"{text_of(error)}, which cannot be sent whole: {text_of(cause)}"
        if error.code == APPLICATION_ERROR:
            return encode((Kind.ERROR, id, HandlerFailed.code, text, [type(error).__name__, ""]))
        return encode((Kind.ERROR, id, error.code, text, None))


def without_payload(error: BaseException, size: int) -> RioError:
    """The answer instead of an error that takes ``size`` bytes, more than a frame may have.

    It promises the same: an error of a call that did not run stays one.
    """
    text = f"the answer was a {type(error).__name__} that takes {size} bytes"
    if isinstance(error, RioError) and not isinstance(error, CallFailed):
        return type(error)(text)
    return ReplyTooLarge(text)


def read_error(body: bytes) -> tuple[str, str, Any]:
    """``(code, text, detail)`` of an ERROR.

    :raises ProtocolError: the frame is no ERROR.
    """
    _, _, code, text, detail = read(body, tuple[int, int, str, str, Any])
    return code, text, detail


def text_of(error: BaseException) -> str:
    """An exception's class and text, as text that fits into an error.

    An exception's ``__str__`` may fail: this function does not.
    """
    name = type(error).__name__
    try:
        return _sendable(f"{name}: {error}"[:MAX_TEXT])
    except BaseException:
        return f"{name} (its text cannot be read)"


def traceback_of(error: BaseException) -> str:
    """The end of the traceback, as text that fits into an error; empty if it cannot be written.

    Python reads the attributes of a SyntaxError, and looks for names that resemble the one of a
    NameError: this may run code of the application.
    """
    try:
        return _sendable("".join(traceback.format_exception(error))[-MAX_TEXT:])
    except BaseException:
        return ""


def _sendable(text: str) -> str:
    """Text without lone surrogates, which file names can hold and UTF-8 cannot."""
    return text.encode(errors="backslashreplace").decode()


# --- subscriptions --------------------------------------------------------------------------------


DROPPED = "rio.dropped"
"""The name in an EVENT that is a notice: the event with its sequence was the last that was dropped.
"""


def write_event_tail(type_name: str, payload: bytes) -> bytes:
    """The part of an EVENT that is the same for all subscribers; the core writes the rest."""
    return encode(type_name) + payload


def read_event(body: bytes) -> tuple[int, str, bytes]:
    """``(sequence, type name, payload)`` of an EVENT.

    :raises ProtocolError: the frame is no EVENT.
    """
    _, _, sequence, type_name, payload = read(body, tuple[int, int, int, str, msgspec.Raw])
    return sequence, type_name, bytes(payload)


def write_end(number: int, error: RioError) -> bytes:
    """The END with which a server ends a subscription, and says why."""
    return encode((Kind.END, number, error.code, error.message, error.detail))


# --- the rest -------------------------------------------------------------------------------------


def write_bare(kind: Kind, id: int) -> bytes:
    """A frame that holds its kind and an id and nothing else."""
    return encode((kind, id))


def write_goaway(text: str, last_request: int | None = None) -> bytes:
    """A server's GOAWAY; once the server has stopped, with the last request that it has read."""
    return encode((Kind.GOAWAY, 0, text, last_request))


def read_goaway(body: bytes) -> tuple[str, int | None]:
    """``(text, last request)`` of a server's GOAWAY.

    :raises ProtocolError: the frame is no GOAWAY of a server.
    """
    _, _, text, last_request = read(body, tuple[int, int, str, int | None])
    if last_request is not None and not 0 <= last_request < 1 << 64:
        raise ProtocolError(f"no request has the number {last_request}")
    return text, last_request


def write_gossip(payload: bytes) -> bytes:
    """A GOSSIP. The payload is MessagePack already: see :mod:`rio.cluster.gossip.messages`."""
    return encode((Kind.GOSSIP, 0, msgspec.Raw(payload)))


def read_gossip(body: bytes) -> bytes:
    """The payload of a GOSSIP, not yet decoded.

    :raises ProtocolError: the frame is no GOSSIP.
    """
    _, _, payload = read(body, tuple[int, int, msgspec.Raw])
    return bytes(payload)


# --- how frames are decoded -----------------------------------------------------------------------


def read(body: bytes, shape: Any) -> Any:
    """The fields of a frame, as a value of type ``shape``.

    :raises ProtocolError: the frame does not have this shape.
    """
    try:
        return _decoder(shape).decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise ProtocolError(f"a frame does not decode: {cause}") from cause


_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def _decoder(shape: Any) -> msgspec.msgpack.Decoder[Any]:
    if shape not in _DECODERS:
        _DECODERS[shape] = msgspec.msgpack.Decoder(shape)
    return _DECODERS[shape]
