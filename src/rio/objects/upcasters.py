"""Upcasters: how states of an older schema become those of a newer one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from rio import type_hints
from rio.errors import BadRegistration, StateCorrupt
from rio.objects.state import State

Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
F = TypeVar("F", bound=Upcaster)


def upcast(state_type: type[State], schema: int, /) -> Callable[[F], F]:
    """Say how a state that was saved under ``schema`` becomes one of the next schema::

        class Ledger(rio.State, schema=2):
            cents: int = 0

        @rio.upcast(Ledger, 1)
        def in_cents(old: dict) -> dict:
            old["cents"] = old.pop("euros") * 100
            return old

    The function gets the stored fields as plain values, and returns those of the next schema. A
    field that it leaves and the class does not know is kept. A class of schema 4 needs an upcaster
    for each of 1, 2 and 3. A class without a schema has saved under 1.

    :raises BadRegistration: ``state_type`` is not a subclass of :class:`rio.State`, or its schema
        is not higher, or there is an upcaster for this schema already, or the function is not an
        ordinary ``def``.
    """
    if not (isinstance(state_type, type) and issubclass(state_type, State)):
        raise BadRegistration(f"rio.upcast takes a subclass of rio.State, got {state_type!r}")
    name = type_hints.full_name(state_type)
    if type(schema) is not int or not 1 <= schema < state_type.__rio_schema__:
        raise BadRegistration(
            f"rio.upcast({state_type.__name__}, {schema!r}): {name} has schema"
            f" {schema_of(state_type)}, and an upcaster is for a lower one, from 1"
        )
    known = state_type.__rio_upcasters__

    def add(function: F) -> F:
        if inspect.iscoroutinefunction(function) or not callable(function):
            raise BadRegistration(f"rio.upcast belongs on an ordinary def, not on {function!r}")
        if known.setdefault(schema, function) is not function:
            raise BadRegistration(f"{name} has two upcasters from schema {schema}")
        return function

    return add


def schema_of(state_type: type[State]) -> int:
    """The schema of a class. One that gives none counts as the first."""
    return state_type.__rio_schema__ or 1


def check_chain(state_type: type[State]) -> None:
    """Make sure that there is a way from each older schema to that of the class.

    :raises BadRegistration: there is none.
    """
    for schema in range(1, schema_of(state_type)):
        if schema not in state_type.__rio_upcasters__:
            raise BadRegistration(
                f"{type_hints.full_name(state_type)} has schema {schema_of(state_type)} and no"
                f" upcaster from {schema}: write @rio.upcast({state_type.__name__}, {schema})"
            )


def to_current(state_type: type[State], old: dict[str, Any], schema: int) -> dict[str, Any]:
    """What was saved under an older schema, as fields of the class.

    :raises StateCorrupt: an upcaster failed.
    """
    for step in range(schema, schema_of(state_type)):
        upcaster = state_type.__rio_upcasters__[step]
        where = f"the upcaster of {type_hints.full_name(state_type)} from schema {step}"
        try:
            old = upcaster(old)
        except Exception as problem:
            raise StateCorrupt(f"{where} failed: {type(problem).__name__}: {problem}") from problem
        if not isinstance(old, dict):
            raise StateCorrupt(f"{where} returned a {type(old).__name__}: return a dict")
    return old
