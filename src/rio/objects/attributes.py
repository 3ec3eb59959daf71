"""Attributes of a class of service objects that would not do what they seem to."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from types import FunctionType
from typing import Any

import msgspec

from rio import type_hints
from rio.errors import BadRegistration
from rio.objects import defaults
from rio.objects.handler import Handler
from rio.objects.state import State

_DATA = (list, dict, set, frozenset, tuple, bytearray, deque, msgspec.Struct)
"""Types of attributes that hold data, besides dataclasses. Others, such as loggers, locks and
functions, are often shared on purpose.
"""


def check_attributes(cls: type) -> None:
    """Make sure that no attribute of a class hides a handler, and that none that can change would
    be shared by all objects. A ``ClassVar`` says that they are meant to share it.

    :raises BadRegistration: an attribute does.
    """
    for base in (cls, *_mixins_of(cls)):
        annotations = type_hints.of_class(base)
        for name, value in base.__dict__.items():
            if cls.__dict__.get(name, value) is not value:  # the class overrides it
                continue
            _check_covers_nothing(base, name, value)
            if not _is_special(name) and not type_hints.is_class_variable(annotations.get(name)):
                _check_not_shared(base, name, value)


def _mixins_of(cls: type) -> Iterator[type]:
    """The base classes that were not checked when they were made."""
    return (base for base in cls.__mro__[1:-1] if not hasattr(base, "__rio_handlers__"))


def _is_special(name: str) -> bool:
    return name.startswith("__") and name.endswith("__")


# --- data that all objects would share ------------------------------------------------------------


def _check_not_shared(cls: type, name: str, value: Any) -> None:
    where, kind = f"{type_hints.full_name(cls)}.{name}", type(value).__name__
    if isinstance(value, State):
        raise BadRegistration(
            f"{where} is one {kind} for all objects, and no storage would keep it:"
            f" write {name}: {kind} = rio.managed_state()"
        )
    if not isinstance(value, _DATA) and not _is_record(value):
        return
    changeable = defaults.find_changeable(value)
    if changeable is not None:
        raise BadRegistration(
            f"{where} would be shared by all objects of the class, and its"
            f" {type(changeable).__name__} can change: give each object its own in __init__, keep"
            " the data in a rio.State, or annotate the attribute ClassVar if all are to share it"
        )


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


# --- decorators above @rio.handler ----------------------------------------------------------------


def _check_covers_nothing(cls: type, name: str, value: Any) -> None:
    """A handler under a decorator is no attribute of the class: no message would reach it."""
    covered = _find_covered(value, set())
    if covered is not None:
        raise BadRegistration(
            f"{type_hints.full_name(cls)}.{name}: a {type(value).__name__} covers {covered!r}, so"
            " that no message would reach it: write @rio.handler above all other decorators"
        )


def _find_covered(value: Any, seen: set[int]) -> Handler[Any, Any, Any] | None:
    """The handler that a decorator has put into ``value``, if there is one."""
    if id(value) in seen or isinstance(value, (type, Handler)):
        return None
    seen.add(id(value))
    parts = list(_parts_of(value))
    for part in parts:
        if isinstance(part, Handler) and not part.has_owner:
            return part
    inner = (_find_covered(part, seen) for part in parts if isinstance(part, _WRAPPERS))
    return next((found for found in inner if found is not None), None)


_WRAPPERS = (FunctionType, property, staticmethod, classmethod)


def _parts_of(value: Any) -> Iterator[Any]:
    """What a decorator may have kept in the thing that it has made."""
    yield from getattr(value, "__dict__", {}).values()
    if isinstance(value, property):
        yield value.fget
    if isinstance(value, (staticmethod, classmethod)):
        yield value.__func__
    if isinstance(value, FunctionType):
        for cell in value.__closure__ or ():
            yield from _content(cell)


def _content(cell: Any) -> Iterator[Any]:
    try:
        yield cell.cell_contents
    except ValueError:  # nothing is in it yet, as in that of super() while the class is made
        return
