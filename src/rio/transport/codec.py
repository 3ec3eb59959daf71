"""Values to MessagePack and back: msgspec for what has a type, msgpack for what has none.

A record travels as a map. So a field with a default can be added, and a field that is not known
ignored, while old and new programs talk to each other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Final,
    cast,
)

import msgspec

from rio import type_hints
from rio.errors import BadMessage, BadReply, RioError

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

T = TypeVar("T")
NATIVE_TYPES = (bytes, bytearray, memoryview, datetime)
"""What MessagePack carries as itself, so that it needs no text form."""


# --- the codec ------------------------------------------------------------------------------------

ENCODER: Final = msgspec.msgpack.Encoder()
"""The one encoder of typed values.

The compiled core calls it directly, and :func:`encode_error` when it fails.
"""

_encode = ENCODER.encode


def encode(value: Any, *, failure: type[RioError] = BadReply) -> bytes:
    """A typed value, or one of plain MessagePack types, as MessagePack.

    :raises BadReply: it holds something that cannot be encoded, which the text names (``failure``
    for what is not a reply).
    """
    try:
        return _encode(value)
    except Exception as problem:
        raise encode_error(problem, value, failure) from problem


def encode_dynamic(value: Any, *, failure: type[RioError] = BadMessage) -> bytes:
    """A value of no declared type as MessagePack.

    Times must be aware. Records, sets, UUIDs and whatever else ``msgspec`` knows become their plain
    form.

    :raises BadMessage: it holds something that cannot be encoded (``failure`` for what is not a
    message).
    """
    import msgpack  # here, because only values without a type need it

    try:
        return cast(bytes, msgpack.packb(value, datetime=True, default=_plain))
    except Exception as problem:
        raise encode_error(problem, value, failure) from problem


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=NATIVE_TYPES)


@functools.lru_cache(maxsize=2048)
def decoder_of(wanted: Any) -> Callable[[bytes], Any]:
    """The function that decodes MessagePack into ``wanted``; for ``Any`` and ``object`` it is
    :func:`decode_dynamic`.

    What it raises is turned into our errors by :func:`decode_error`.

    :raises TypeError: ``msgspec`` cannot decode into this type.
    """
    if wanted is Any or wanted is object:
        return _unpack
    return msgspec.msgpack.Decoder(wanted).decode


def decode(data: bytes, wanted: Any, *, failure: type[RioError] = BadMessage) -> Any:
    """``data`` as a value of type ``wanted``.

    :raises BadMessage: the bytes are no MessagePack or do not fit; the text has the path
    (``failure`` for what is not a message).
    """
    try:
        return decoder_of(wanted)(data)
    except Exception as problem:
        raise decode_error(problem, wanted, failure) from problem


def decode_dynamic(data: bytes, *, failure: type[RioError] = BadMessage) -> Any:
    """``data`` as plain values: dict (with keys of any type), list, str, bytes, int, float, bool,
    None, aware datetime.

    :raises BadMessage: the bytes are no MessagePack, or nested too deeply (``failure`` for what is
    not a message).
    """
    return decode(data, Any, failure=failure)


def _unpack(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3)


def encode_error(
    problem: Exception, value: Any = None, failure: type[RioError] = BadReply
) -> RioError:
    """What to raise when a value could not be encoded: a ``failure`` that names its type and what
    in it is to blame.

    ``None``, which can always be encoded, stands for a value that is not at hand.
    """
    what = "a value" if value is None else f"a value of type {type_hints.full_name(type(value))}"
    return failure(f"{what} cannot be encoded as MessagePack: {_in_words(problem)}")


def decode_error(problem: Exception, wanted: Any, failure: type[RioError] = BadMessage) -> RioError:
    """What to raise when bytes could not be decoded into ``wanted``: a ``failure`` that names the
    type and the path of the field.
    """
    what = "a plain value" if wanted is Any or wanted is object else type_hints.full_name(wanted)
    return failure(f"the payload does not decode into {what}: {_in_words(problem)}")


def _in_words(problem: Exception) -> str:
    import msgpack

    if isinstance(problem, (RecursionError, msgpack.exceptions.StackError)):
        return "it is nested too deeply"
    if isinstance(problem, msgpack.exceptions.ExtraData):
        return "there are bytes after its end"
    if isinstance(problem, msgspec.MsgspecError):
        return str(problem)
    return f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__


def check_serialisable(wanted: Any) -> None:
    """Make sure that values of this type can travel.

    :raises TypeError: they cannot; the text names the part that is to blame.
    :raises NameError: a forward reference in one of its fields names nothing that exists by now.
    """
    if wanted is Any or wanted is object:
        return
    decoder_of(wanted)
    foreign = _foreign_part(msgspec.inspect.type_info(wanted), set())
    if foreign is not None:
        raise TypeError(f"{type_hints.full_name(foreign)} is not a type that MessagePack can carry")


def _foreign_part(info: Any, seen: set[int]) -> Any:
    """The first type inside ``info`` that ``msgspec`` knows no encoding for."""
    if isinstance(info, msgspec.inspect.CustomType):
        return None if info.cls is object else info.cls
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, (tuple, list)):
        parts = info
    elif isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)):
        parts = tuple(
            getattr(info, name)
            for name in info.__struct_fields__
            if name not in ("cls", "default", "default_factory")
        )
    else:
        return None
    return next((found for part in parts if (found := _foreign_part(part, seen)) is not None), None)
