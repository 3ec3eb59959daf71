"""The frames of ``docs/protocol.md`` that come less often than requests and replies.

The compiled core writes those two.
"""

from __future__ import annotations

import traceback
from typing import Any

import msgspec

from rio._core.wire import Kind
from rio.errors import (
    APPLICATION_ERROR,
    CallFailed,
    HandlerFailed,
    ProtocolError,
    ProtocolVersionMismatch,
    ReplyTooLarge,
    RioError,
)

VERSION = 1
HANDSHAKE_TIMEOUT = 5.0
"""Seconds a peer may take to introduce itself."""
MAX_TEXT = 16 * 1024
"""Characters of an exception's text, and of its traceback, that are sent."""


encode = msgspec.msgpack.Encoder().encode


class Hello(msgspec.Struct, omit_defaults=True):
    """How the two sides introduce themselves; unknown keys are ignored, so that later versions can
    say more.
    """

    version: int
    role: str
    """``"client"`` or ``"node"``."""
    generation: int = 0
    """Of a node: its member number."""
    address: str = ""
    """Of a node: where it can be reached."""


def hello(hello: Hello) -> bytes:
    return encode((Kind.HELLO, 0, hello))


def read_hello(body: bytes) -> Hello:
    """:raises ProtocolError: the frame is no HELLO.

    :raises ProtocolVersionMismatch: of another version.
    """
    kind, hello = read(body, tuple[int, int, Hello])[::2]
    if kind != Kind.HELLO:
        raise ProtocolError(f"the first frame must be a HELLO, not one of kind {kind}")
    if hello.version != VERSION:
        raise ProtocolVersionMismatch(
            f"this side speaks version {VERSION} of the protocol, the peer version {hello.version}",
            [VERSION],
        )
    assert isinstance(hello, Hello)
    return hello


def error(id: int, error: BaseException) -> bytes:
    """An error as the answer to request ``id``, or about the whole connection where that is 0."""
    if not isinstance(error, RioError) or not error.code:
        error = HandlerFailed(text_of(error), [type(error).__name__, ""])
    try:
        return encode((Kind.ERROR, id, error.code, error.message, error.detail))
    except Exception as cause:  # an application's error class may do anything
        code, detail = (
            (HandlerFailed.code, [type(error).__name__, ""])
            if error.code == APPLICATION_ERROR
            else (error.code, None)
        )
        return encode(
            (
                Kind.ERROR,
                id,
                code,
                f"{text_of(error)}, which cannot be sent whole: {text_of(cause)}",
                detail,
            )
        )


def without_payload(error: BaseException, size: int) -> RioError:
    """What to answer instead of an error that takes ``size`` bytes, more than a frame may have.

    It promises the same: an error of a call that did not run stays one.
    """
    text = f"the answer was a {type(error).__name__} that takes {size} bytes"
    if isinstance(error, RioError) and not isinstance(error, CallFailed):
        return type(error)(text)
    return ReplyTooLarge(text)


def read_error(body: bytes) -> tuple[str, str, Any]:
    """``(code, text, detail)`` of an ERROR. :raises ProtocolError: it is none."""
    _, _, code, text, detail = read(body, tuple[int, int, str, str, Any])
    return code, text, detail


def simple(kind: Kind, id: int) -> bytes:
    return encode((kind, id))


def end(number: int, error: RioError) -> bytes:
    """The server ends a subscription."""
    return encode((Kind.END, number, error.code, error.message, error.detail))


def read_end(body: bytes) -> tuple[str, str, Any]:
    _, _, code, text, detail = read(body, tuple[int, int, str, str, Any])
    return code, text, detail


def event_tail(type_name: str, payload: bytes) -> bytes:
    """The part of an EVENT that is the same for all subscribers."""
    return encode(type_name) + payload


def read_event(body: bytes) -> tuple[int, str, bytes]:
    """``(sequence, type name, payload)``."""
    _, _, sequence, type_name, payload = read(body, tuple[int, int, int, str, msgspec.Raw])
    return sequence, type_name, bytes(payload)


def goaway(text: str, last_request: int | None = None) -> bytes:
    return encode((Kind.GOAWAY, 0, text, last_request))


def read_goaway(body: bytes) -> tuple[str, int | None]:
    """``(text, last request)``."""
    _, _, text, last_request = read(body, tuple[int, int, str, int | None])
    return text, last_request


def gossip(payload: bytes) -> bytes:
    """A GOSSIP: ``[10, 0, payload]``, the payload being one of :mod:`rio.cluster.gossip.messages`
    in MessagePack.
    """
    return encode((Kind.GOSSIP, 0, msgspec.Raw(payload)))


def read_gossip(body: bytes) -> bytes:
    """The payload, not yet decoded."""
    _, _, payload = read(body, tuple[int, int, msgspec.Raw])
    return bytes(payload)


def read(body: bytes, shape: Any) -> Any:
    try:
        return _decoder(shape).decode(body)
    except (msgspec.MsgspecError, RecursionError) as cause:
        raise ProtocolError(f"a frame does not decode: {cause}") from cause


_DECODERS: dict[Any, msgspec.msgpack.Decoder[Any]] = {}


def _decoder(shape: Any) -> msgspec.msgpack.Decoder[Any]:
    if shape not in _DECODERS:
        _DECODERS[shape] = msgspec.msgpack.Decoder(shape)
    return _DECODERS[shape]


def text_of(error: BaseException) -> str:
    """An exception's class and text, cut to what an error may hold, whatever the exception does."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        return f"{type(error).__name__} (its text cannot be read)"
    return _sendable(text[:MAX_TEXT])


def traceback_of(error: BaseException) -> str:
    """The end of the traceback, as text that fits into an error."""
    return _sendable("".join(traceback.format_exception(error))[-MAX_TEXT:])


def _sendable(text: str) -> str:
    """Text without the halves of characters that file names and the like may hold, and that have no
    encoding.
    """
    return text.encode(errors="backslashreplace").decode()
