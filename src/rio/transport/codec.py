"""Values to MessagePack and back: msgspec for what has a type, msgpack for what has none.

A record becomes a map. Old and new programs can therefore talk to each other: the writer may add a
field that has a default, and the reader ignores a field that it does not know.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from rio import type_hints
from rio.errors import BadMessage, BadReply, RioError
from rio.transport.protocol import text_of

NATIVE_TYPES = (bytes, bytearray, memoryview, datetime)
"""Types that MessagePack carries as they are, so that they need no text form."""


ENCODER: Final = msgspec.msgpack.Encoder()
"""The one encoder of typed values.

The compiled core calls it directly, and :func:`encoding_error` when it fails.
"""

_encode = ENCODER.encode


def encode(value: Any, *, failure: type[RioError] = BadReply) -> bytes:
    """Encode a typed value, or one of plain MessagePack types.

    :raises BadReply: the value holds something that cannot be encoded, which the text names.
        ``failure`` replaces the class where the value is no reply.
    """
    try:
        return _encode(value)
    except Exception as problem:
        raise encoding_error(problem, value, failure) from problem


def encode_dynamic(value: Any, *, failure: type[RioError] = BadMessage) -> bytes:
    """Encode a value of no declared type.

    Times must be aware. Records, sets, UUIDs and whatever else ``msgspec`` knows take their plain
    form.

    :raises BadMessage: the value holds something that cannot be encoded. ``failure`` replaces the
        class where the value is no message.
    """
    import msgpack  # here, because only values without a type need it

    try:
        return cast(bytes, msgpack.packb(value, datetime=True, default=_to_plain))
    except Exception as problem:
        raise encoding_error(problem, value, failure) from problem


def _to_plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=NATIVE_TYPES)


@functools.lru_cache(maxsize=2048)
def decoder_of(wanted: Any) -> Callable[[bytes], Any]:
    """The function that decodes MessagePack into ``wanted``; ``Any`` and ``object`` stand for plain
    values.

    :func:`decoding_error` turns what the function raises into an error of rio.

    :raises TypeError: ``msgspec`` cannot decode into this type.
    """
    if wanted is Any or wanted is object:
        return _unpack
    return msgspec.msgpack.Decoder(wanted).decode


def decode(data: bytes, wanted: Any, *, failure: type[RioError] = BadMessage) -> Any:
    """Decode a value of type ``wanted``.

    :raises BadMessage: the bytes are no MessagePack, or do not fit the type; the text has the path.
        ``failure`` replaces the class where the bytes are no message.
    """
    try:
        return decoder_of(wanted)(data)
    except Exception as problem:
        raise decoding_error(problem, wanted, failure) from problem


def decode_dynamic(data: bytes, *, failure: type[RioError] = BadMessage) -> Any:
    """Decode plain values: dict (with keys of any type), list, str, bytes, int, float, bool, None,
    aware datetime.

    :raises BadMessage: the bytes are no MessagePack, or nested too deeply. ``failure`` replaces the
        class where the bytes are no message.
    """
    return decode(data, Any, failure=failure)


def _unpack(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3)


def encoding_error(
    problem: BaseException, value: Any = None, failure: type[RioError] = BadReply
) -> RioError:
    """The error for a value that could not be encoded: a ``failure`` that names the type of the
    value and the part that is to blame.

    ``None``, which can always be encoded, stands for a value that is not at hand.
    """
    what = "a value" if value is None else f"a value of type {type_hints.full_name(type(value))}"
    return failure(f"{what} cannot be encoded as MessagePack: {describe(problem)}")


def decoding_error(
    problem: BaseException, wanted: Any, failure: type[RioError] = BadMessage
) -> RioError:
    """The error for bytes that could not be decoded into ``wanted``: a ``failure`` that names the
    type and the path of the field.
    """
    what = "a plain value" if wanted is Any or wanted is object else type_hints.full_name(wanted)
    return failure(f"the payload does not decode into {what}: {describe(problem)}")


def describe(problem: BaseException) -> str:
    """What an encoder or a decoder did not like. Whatever ``problem`` is, nothing is raised."""
    if isinstance(problem, RecursionError) or _is_of_msgpack(problem, "StackError"):
        return "it is nested too deeply"
    if _is_of_msgpack(problem, "ExtraData"):
        return "there are bytes after its end"
    if isinstance(problem, msgspec.MsgspecError):
        return str(problem)
    return text_of(problem).removesuffix(": ")


def _is_of_msgpack(problem: BaseException, name: str) -> bool:
    """Whether this is an exception of ``msgpack``. Nothing is imported for that: an import may
    fail, and only what has been imported raises.
    """
    return any(
        cls.__name__ == name and cls.__module__.startswith("msgpack")
        for cls in type(problem).__mro__
    )


def check_serialisable(wanted: Any) -> None:
    """Make sure that values of this type can travel.

    :raises TypeError: they cannot; the text names the part that is to blame.
    :raises NameError: a forward reference in one of the type's fields names nothing that exists by
        now.
    """
    if wanted is Any or wanted is object:
        return
    decoder_of(wanted)
    for part in parts_of(wanted):
        if isinstance(part, msgspec.inspect.CustomType) and part.cls is not object:
            name = type_hints.full_name(part.cls)
            raise TypeError(f"{name} is not a type that MessagePack can carry")


def parts_of(wanted: Any) -> Iterator[msgspec.inspect.Type]:
    """A type and all types inside of it, each once, as ``msgspec`` describes them.

    :raises TypeError: ``msgspec`` does not know such a type.
    :raises NameError: a forward reference in it names nothing that exists by now.
    """
    return _parts_of_info(msgspec.inspect.type_info(wanted), set())


def _parts_of_info(info: Any, seen: set[int]) -> Iterator[msgspec.inspect.Type]:
    if id(info) in seen:
        return
    seen.add(id(info))
    if isinstance(info, msgspec.inspect.Type):
        yield info
    for inner in _inner_infos(info):
        yield from _parts_of_info(inner, seen)


def _inner_infos(info: Any) -> Iterable[Any]:
    if isinstance(info, (tuple, list)):
        return info
    if not isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)):
        return ()
    return [
        getattr(info, name)
        for name in info.__struct_fields__
        if name not in ("cls", "default", "default_factory")
    ]
