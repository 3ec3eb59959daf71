"""Defaults that all objects would share.

A default that is no factory is one instance. If it can change, a change in one object shows in all
others.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from types import NoneType
from typing import Any, cast
from uuid import UUID

import msgspec

from rio import type_hints
from rio.errors import BadRegistration
from rio.transport import codec

_CONSTANT = (
    *(NoneType, bool, int, float, complex, str, bytes, type, enum.Enum),
    *(date, time, timedelta, Decimal, UUID, msgspec.UnsetType, msgspec.Raw),
)
"""Types whose values cannot change."""

_RECORDS = (
    msgspec.inspect.StructType,
    msgspec.inspect.DataclassType,
    msgspec.inspect.NamedTupleType,
)


def check_struct(cls: msgspec.StructMeta) -> None:
    """Make sure that no default of a class is shared and can change.

    :raises BadRegistration: one is.
    """
    names, values = cls.__struct_fields__, cls.__struct_defaults__
    for name, value in zip(names[len(names) - len(values) :], values, strict=True):
        problem = _find_problem(cls, name, value)
        if problem:
            raise BadRegistration(problem)


def check_parts(wanted: Any) -> None:
    """Make sure that in all types inside of a type no default is shared and can change.

    :raises TypeError: one is.
    :raises NameError: a forward reference inside of the type names nothing that exists by now.
    """
    for part in codec.parts_of(wanted):
        if isinstance(part, _RECORDS):
            for field in part.fields:
                problem = _find_problem(part.cls, field.name, field.default)
                if problem:
                    raise TypeError(problem)


def _find_problem(cls: type, name: str, default: Any) -> str:
    changeable = find_changeable(default)
    if changeable is None:
        return ""
    return (
        f"{type_hints.full_name(cls)}.{name} has a default that all objects would share, and its"
        f" {type(changeable).__name__} can change: give the field a factory,"
        " msgspec.field(default_factory=...), or make the type frozen"
    )


def find_changeable(value: Any) -> Any:
    """The first part of a default that can change, or ``None``."""
    if isinstance(value, _CONSTANT) or _is_marker(value):
        return None
    parts = _parts_of_unchangeable(value)
    if parts is None:
        return value
    return next((found for part in parts if (found := find_changeable(part)) is not None), None)


def _is_marker(value: Any) -> bool:
    """Whether it stands for a factory, or for no default."""
    return value is msgspec.NODEFAULT or isinstance(value, _FACTORY)


def _parts_of_unchangeable(value: Any) -> Iterator[Any] | None:
    """What a value consists of that itself cannot change, or ``None`` if it can."""
    if isinstance(value, (tuple, frozenset)):
        return iter(value)
    if isinstance(value, msgspec.Struct) and value.__struct_config__.frozen:
        return (getattr(value, name) for name in value.__struct_fields__)
    if _is_frozen_dataclass(value):
        fields: Any = dataclasses.fields(cast(Any, value))
        return (getattr(value, field.name) for field in fields)
    return None


def _is_frozen_dataclass(value: Any) -> bool:
    parameters: Any = getattr(value, "__dataclass_params__", None)
    return parameters is not None and bool(parameters.frozen)


class _WithFactory(msgspec.Struct):
    items: list[int] = []


_FACTORY = type(_WithFactory.__struct_defaults__[0])
