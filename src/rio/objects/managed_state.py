"""Fields of an object that are state: what a class declares, and the records that are saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, NamedTuple, Protocol, Self, TypeGuard

import msgspec

from rio import type_hints
from rio.contracts.state import StateStorage
from rio.errors import BadIdentity, BadRegistration
from rio.identity import MAX_TYPE_NAME_BYTES, check_name
from rio.transport.codec import check_serialisable


class State(msgspec.Struct):
    """The base of what an object remembers.

    Every field has a default, because an object that was never saved starts with them.
    """


# --- fields of an object that are state -----------------------------------------------------------


def managed_state(*, name: str | None = None, storage: StateStorage | None = None) -> Any:
    """Mark a field of a service object as state that is loaded before the first message: ``ledger:
    Ledger = rio.managed_state()``.

    The annotation is a subclass of :class:`rio.State`. ``name`` is the state's name in the storage,
    by default that of the field: give the old name when you rename the field. ``storage`` holds
    this state; by default it is the server's.
    """
    return ManagedState(name, storage)


class ManagedStateField(NamedTuple):
    """One managed state of a class."""

    attribute: str
    """The field on the object."""
    state_name: str
    """Its name in the storage, unique in the class."""
    state_type: type[State]
    """A subclass of :class:`rio.State`; calling it without arguments gives the state of an object
    that was never saved.
    """
    storage: StateStorage | None
    """Where it is kept; ``None`` for the server's storage."""


class ManagedState:
    """The marker that :func:`managed_state` leaves on the class.

    The loaded state lies on the instance, under the same name.
    """

    def __init__(self, name: str | None, storage: StateStorage | None) -> None:
        self._name = name
        self._storage = storage
        self._owner: type = object
        self._attribute = name or ""
        self._field: ManagedStateField | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self._owner = owner
        self._attribute = name

    def __get__(self, instance: object | None, owner: type | None = None) -> Self:
        if instance is None:
            return self
        raise AttributeError(
            f"{type(instance).__name__}.{self._attribute} is not loaded yet: a managed state is "
            "there once load() has run"
        )

    def field(self, local_names: Iterable[type_hints.Namespace] = ()) -> ManagedStateField:
        """What the marker and its annotation say.

        :raises BadRegistration: the annotation is missing, or is no state that an object can
        start with.
        :raises NameError: the annotation names something that is not defined (yet).
        """
        if self._field is None:
            state_type = self._state_type(local_names)
            self._field = ManagedStateField(
                self._attribute, self._state_name(), state_type, self._storage
            )
        return self._field

    def _state_type(self, local_names: Iterable[type_hints.Namespace]) -> type[State]:
        annotations = type_hints.of_class(self._owner)
        if self._attribute not in annotations:
            wanted = f"{self._attribute}: YourState = rio.managed_state()"
            raise self._refusal(
                f"it has no annotation: write {wanted}, with class YourState(rio.State)"
            )
        try:
            state_type = type_hints.of_annotation(
                annotations[self._attribute], self._owner.__module__, local_names
            )
        except (TypeError, SyntaxError) as problem:
            raise self._refusal(f"its annotation is no type: {problem}") from problem
        if not _is_state(state_type):
            raise self._refusal(
                f"it is annotated {type_hints.short_name(state_type)}, which is no subclass of "
                "rio.State: make it one"
            )
        required = _required_fields(state_type)
        if required:
            raise self._refusal(
                f"{type_hints.short_name(state_type)} cannot start empty: give a default to "
                f"{', '.join(required)}"
            )
        return state_type

    def _state_name(self) -> str:
        name = self._attribute if self._name is None else self._name
        try:
            check_name("the state's name", name, MAX_TYPE_NAME_BYTES)
        except BadIdentity as problem:
            raise self._refusal(str(problem)) from problem
        return name

    def _refusal(self, problem: str) -> BadRegistration:
        return BadRegistration(
            f"managed state {type_hints.full_name(self._owner)}.{self._attribute}: {problem}"
        )


def _is_state(wanted: Any) -> TypeGuard[type[State]]:
    return isinstance(wanted, type) and issubclass(wanted, State) and wanted is not State


def _required_fields(struct: type[msgspec.Struct]) -> list[str]:
    names, defaults = struct.__struct_fields__, struct.__struct_defaults__
    without = len(names) - len(defaults)
    return [
        name
        for index, name in enumerate(names)
        if index < without or defaults[index - without] is msgspec.NODEFAULT
    ]


def collect_managed_states(cls: type) -> tuple[ManagedState, ...]:
    """The managed states of a class in the order of their declaration, inherited ones first.

    A subclass overrides by the field's name.
    """
    found: dict[str, ManagedState] = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if isinstance(value, ManagedState):
                found[name] = value
            elif name in found:
                del found[name]
    return tuple(found.values())


def _check_state_names(cls: type, fields: Iterable[ManagedStateField]) -> None:
    """:raises BadRegistration: two states of ``cls`` would be stored under one name."""
    seen: dict[str, ManagedStateField] = {}
    for field in fields:
        other = seen.setdefault(field.state_name, field)
        if other is not field:
            raise BadRegistration(
                f"{type_hints.full_name(cls)}: managed states {other.attribute!r} and "
                f"{field.attribute!r} would both be stored as "
                f"{field.state_name!r}: give one of them another name, rio.managed_state(name=...)"
            )


class _HasManagedStates(Protocol):
    __rio_managed_states__: ClassVar[tuple[ManagedState, ...]]


def managed_states_of(cls: type[_HasManagedStates]) -> tuple[ManagedStateField, ...]:
    """The managed states of a service object class, whose annotations can be read by now.

    :raises BadRegistration: a state breaks a rule, or its annotation names something that is not
    defined.
    """
    fields = tuple(_checked_field(cls, marker) for marker in cls.__rio_managed_states__)
    _check_state_names(cls, fields)
    return fields


def _checked_field(cls: type, marker: ManagedState) -> ManagedStateField:
    try:
        field = marker.field((vars(cls),))
        check_serialisable(field.state_type)
    except BadRegistration:
        raise
    except (NameError, TypeError) as problem:
        raise BadRegistration(
            f"a managed state of {type_hints.full_name(cls)} cannot be used: {problem}"
        ) from problem
    return field
