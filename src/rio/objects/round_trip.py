"""Whether a value that is written is the value that will be read."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec

from rio.transport import codec

_PATH = re.compile(r"(.*) - at `(?:key` in `)?\$(.*)`", re.DOTALL)
"""The end of an error of ``msgspec``, which names the part to blame."""

_BYTES = (bytes, bytearray, memoryview)
_SETS = (set, frozenset)


class Unreadable(ValueError):
    """A value, or a part of it, that would not be read as it was written."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path
        """From the value to the part: ``.lines[3].amount``; empty for the value itself."""
        self.problem = problem


class RoundTrip:
    """Encodes values of one type, and makes sure that they will be read as they were written.

    :raises TypeError: ``msgspec`` cannot decode into this type.
    :raises NameError: a forward reference in the type names nothing that exists by now.
    """

    def __init__(self, wanted: Any) -> None:
        self._encode = encoder_of(wanted)
        self._decode = codec.decoder_of(wanted)
        self._image = _encode_with_offsets if _has_untyped_part(wanted) else self._encode
        """What it encodes differs wherever two values do, but for their classes."""

    def encode(self, value: Any) -> bytes:
        """What will be read as ``value``.

        :raises Unreadable: the value holds something that MessagePack cannot carry, or that would
            be read as something else.
        """
        try:
            data = self._encode(value)
        except Exception as problem:
            raise _find_unencodable(self._encode, value, "", problem) from problem
        try:
            read = self._decode(data)
        except Exception as problem:
            raise _undecodable(problem) from problem
        image = self._image
        written = data if image is self._encode else image(value)
        if image(read) != written or not _is_equal(value, read):
            _check_parts(image, value, read, "")
        return data


@functools.lru_cache(maxsize=2048)
def round_trip_of(wanted: Any) -> RoundTrip:
    """The one :class:`RoundTrip` of a type.

    :raises TypeError: ``msgspec`` cannot decode into this type.
    :raises NameError: a forward reference in the type names nothing that exists by now.
    """
    return RoundTrip(wanted)


def encoder_of(wanted: Any) -> Callable[[Any], bytes]:
    """What encodes values of a type so that their times keep their offsets from UTC.

    MessagePack has a type for times that has no offset, so they are written as text.
    """
    has_times = any(
        isinstance(part, msgspec.inspect.DateTimeType) for part in codec.parts_of(wanted)
    )
    return _encode_with_offsets if has_times else codec.ENCODER.encode


def _has_untyped_part(wanted: Any) -> bool:
    return any(
        isinstance(part, msgspec.inspect.AnyType)
        or (isinstance(part, msgspec.inspect.CustomType) and part.cls is object)
        for part in codec.parts_of(wanted)
    )


def _encode_with_offsets(value: Any) -> bytes:
    return codec.ENCODER.encode(msgspec.to_builtins(value, builtin_types=_BYTES))


# --- the part to blame ----------------------------------------------------------------------------


def _undecodable(problem: Exception) -> Unreadable:
    found = _PATH.fullmatch(str(problem))
    return Unreadable(found[2], found[1]) if found else Unreadable("", codec.describe(problem))


def _find_unencodable(
    encode: Callable[[Any], bytes], value: Any, path: str, problem: Exception
) -> Unreadable:
    if not isinstance(problem, RecursionError):  # which has no one part to blame
        for name, part in _parts_of(value):
            try:
                encode(part)
            except Exception as inner:
                return _find_unencodable(encode, part, path + name, inner)
    return Unreadable(path, codec.describe(problem))


def _check_parts(encode: Callable[[Any], bytes], written: Any, read: Any, path: str) -> None:
    """Find the part that is not read as it is written.

    A comparison of whole values says that some are different that are not: not a number, classes
    that compare by identity, sets in another order, and an int where a float is declared.

    :raises Unreadable: there is one.
    """
    if not _may_stand_for(written, read):
        raise Unreadable(path, f"a {_name(written)} would be read as a {_name(read)}")
    if not _has_parts(written):
        if not _is_same_leaf(encode, written, read):
            raise Unreadable(path, f"{written!r:.100} would be read as {read!r:.100}")
        return
    if isinstance(written, dict) and len(written) != len(read):
        raise Unreadable(path, "two of its keys would be read as one")
    parts = zip(_parts_of(written), _parts_of(read), strict=True)
    for (name, part), (_, part_read) in parts:
        if not _is_same(encode, part, part_read):
            _check_parts(encode, part, part_read, path + name)


def _is_same(encode: Callable[[Any], bytes], written: Any, read: Any) -> bool:
    return _is_equal(written, read) and encode(written) == encode(read)


def _is_equal(written: Any, read: Any) -> bool:
    try:
        return bool(written == read)
    except Exception:  # a class of the application may do anything
        return False


def _may_stand_for(written: Any, read: Any) -> bool:
    """Whether the types differ in nothing that a program would miss."""
    if type(written) is type(read):
        return True
    if _fields_of(written) is not None:
        return False
    return (
        isinstance(written, type(read))
        or (type(written) is int and type(read) is float)
        or (isinstance(written, _BYTES) and isinstance(read, _BYTES))
        or (isinstance(written, _SETS) and isinstance(read, _SETS))
    )


def _is_same_leaf(encode: Callable[[Any], bytes], written: Any, read: Any) -> bool:
    if isinstance(written, (float, Decimal)):  # which may be no number, and unequal to itself
        return encode(written) == encode(read)
    if isinstance(written, datetime):  # which may be unequal to itself where the clock is set back
        return _local(written) == _local(read)
    if isinstance(written, _SETS) and not _is_equal(written, read):
        return sorted(map(encode, written)) == sorted(map(encode, read)) and (
            set(map(type, written)) == set(map(type, read))
        )
    return _is_equal(written, read)


def _local(moment: datetime) -> tuple[datetime, timedelta | None]:
    return moment.replace(tzinfo=None, fold=0), moment.utcoffset()


def _has_parts(value: Any) -> bool:
    return isinstance(value, (dict, list, tuple)) or _fields_of(value) is not None


def _parts_of(value: Any) -> Iterator[tuple[str, Any]]:
    """The parts of a value, each with its step in a path."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"[{key!r:.50}]", key
            yield f"[{key!r:.50}]", item
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield f"[{index}]", item
    else:
        for name in _fields_of(value) or ():
            yield f".{name}", getattr(value, name)


def _fields_of(value: Any) -> list[str] | None:
    """The names of the fields of a record; ``None`` if it is none."""
    if isinstance(value, msgspec.Struct):
        return list(value.__struct_fields__)
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    if hasattr(type(value), "__attrs_attrs__"):
        return [field.name for field in type(value).__attrs_attrs__]
    return None


def _name(value: Any) -> str:
    return type(value).__name__
