"""Managed state: the fields of an object whose values a storage keeps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol, Self, TypeAlias, TypeGuard

import msgspec

from rio import type_hints
from rio.contracts.state import StateStorage, StoredState, TypedStateStorage
from rio.errors import BadIdentity, BadRegistration
from rio.identity import MAX_TYPE_NAME_BYTES, check_name
from rio.objects import defaults, upcasters
from rio.objects.state import State
from rio.objects.state_codec import KeptFields, LoadedState, state_codec_of
from rio.transport import codec

OwnStorage: TypeAlias = (
    StateStorage | TypedStateStorage[Any] | type[StateStorage] | type[TypedStateStorage[Any]]
)
"""What a managed state may name as its storage: a back end, or the type under which the server's
:class:`rio.AppData` has one.
"""


def managed_state(*, name: str | None = None, storage: OwnStorage | None = None) -> Any:
    """Mark a field of a service object as state that a storage keeps.

    Annotate the field with a subclass of :class:`rio.State`::

        class Account(rio.ServiceObject):
            ledger: Ledger = rio.managed_state()

    The field has its value once :meth:`rio.ServiceObject.load` has run, which is before the first
    message. ``await self.save_state()`` writes it; nothing else does.

    ``name`` is the name of the state in the storage, 1 to 128 bytes of UTF-8, by default the name
    of the field. When you rename the field, give the old name here.

    ``storage`` keeps this state; by default the server's storage does. It is a
    :class:`rio.contracts.StateStorage` or a :class:`rio.contracts.TypedStateStorage`, or the type
    under which the :class:`rio.AppData` of the server has one: each server takes its own when it is
    made, opens it when it starts, and closes it when it ends.

    :raises BadRegistration: (when the class is made or registered) the annotation is missing, is
        not a subclass of :class:`rio.State`, has a field without a default or cannot travel, or the
        name is empty, too long or that of another state of the class.
    """
    return ManagedState(name, storage)


class ManagedStateField(msgspec.Struct, frozen=True):
    """A managed state of a class."""

    attribute: str
    """The name of the field on the object."""
    state_name: str
    """The name of the state in the storage. No other state of the class has it."""
    state_type: type[State]
    """Called without arguments, it gives the state of an object that was never saved."""
    storage: OwnStorage | None
    """The storage that keeps the state; ``None`` for the server's."""

    @property
    def schema(self) -> int:
        """The schema under which the state is saved; 0 if its class gives none."""
        return self.state_type.__rio_schema__

    def encode(self, value: Any, kept: KeptFields, limit: int) -> StoredState:
        """What the storage is to keep of a value and of the fields that were loaded with it, at
        most ``limit`` bytes.

        :raises BadState: the value cannot be saved, or would be loaded as another one.
        :raises StateTooLarge: it takes more bytes.
        """
        data = state_codec_of(self.state_type).encode(value, kept, self.attribute, limit)
        return StoredState(data, self.state_type.__rio_schema__)

    def decode(self, stored: StoredState) -> LoadedState:
        """The value that was stored, and the fields that the class does not know.

        :raises StateCorrupt: the bytes do not decode as a value of the state's type.
        :raises StateTooNew: the state was saved under a newer schema.
        """
        return state_codec_of(self.state_type).decode(*stored)


class ManagedState:
    """The marker that :func:`managed_state` leaves on the class.

    The loaded state is an attribute of the instance, under the same name.
    """

    def __init__(self, name: str | None, storage: OwnStorage | None) -> None:
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
            f"{type(instance).__name__}.{self._attribute} is not loaded yet:"
            " load() gives a managed state its value. A load() of your own has to"
            " await self.load_state()"
        )

    def field(self, local_names: Iterable[type_hints.Namespace] = ()) -> ManagedStateField:
        """The managed state that the marker and its annotation declare.

        :raises BadRegistration: the annotation is missing, or an object cannot start with it.
        :raises NameError: the annotation names something that is not defined (yet).
        """
        if self._field is None:
            state_type = self._read_annotation(local_names)
            self._check_state_type(state_type)
            self._check_storage()
            self._field = ManagedStateField(
                self._attribute, self._state_name(), state_type, self._storage
            )
        return self._field

    def _read_annotation(self, local_names: Iterable[type_hints.Namespace]) -> Any:
        annotations = type_hints.of_class(self._owner)
        if self._attribute not in annotations:
            raise self._refusal(
                f"it has no annotation: write {self._attribute}: YourState = rio.managed_state(),"
                " with class YourState(rio.State)"
            )
        try:
            return type_hints.of_annotation(
                annotations[self._attribute], self._owner.__module__, local_names
            )
        except (TypeError, SyntaxError) as problem:
            raise self._refusal(f"its annotation is not a type: {problem}") from problem

    def _check_state_type(self, state_type: Any) -> None:
        name = type_hints.short_name(state_type)
        if not _is_state(state_type):
            raise self._refusal(f"it is annotated {name}: annotate it with a subclass of rio.State")
        required = _required_fields(state_type)
        if required:
            raise self._refusal(
                f"{name} cannot start empty: give a default to {', '.join(required)}"
            )

    def _check_storage(self) -> None:
        storage = self._storage
        kind = storage if isinstance(storage, type) else type(storage)
        if storage is not None and not issubclass(kind, (StateStorage, TypedStateStorage)):
            raise self._refusal(
                f"its storage is {storage!r:.100}: give a back end of states, or the type under"
                " which AppData has one"
            )

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
    """The names of the fields that have no default."""
    names, defaults = struct.__struct_fields__, struct.__struct_defaults__
    without = len(names) - len(defaults)
    return [
        name
        for index, name in enumerate(names)
        if index < without or defaults[index - without] is msgspec.NODEFAULT
    ]


def collect_managed_states(cls: type) -> tuple[ManagedState, ...]:
    """The markers of a class in the order of their declaration, inherited ones first.

    A subclass overrides a state with any attribute of the same name.

    :raises BadRegistration: ``managed_state`` stands there without its parentheses.
    """
    found: dict[str, ManagedState] = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if isinstance(value, ManagedState):
                found[name] = value
            elif value is managed_state:
                raise BadRegistration(
                    f"managed state {type_hints.full_name(base)}.{name}: write"
                    f" {name}: YourState = rio.managed_state(), with the parentheses"
                )
            elif name in found:
                del found[name]
    return tuple(found.values())


def _check_state_names(cls: type, fields: Iterable[ManagedStateField]) -> None:
    """Make sure that no two states of ``cls`` would be stored under one name.

    :raises BadRegistration: two states would.
    """
    seen: dict[str, ManagedStateField] = {}
    for field in fields:
        other = seen.setdefault(field.state_name, field)
        if other is not field:
            raise BadRegistration(
                f"{type_hints.full_name(cls)}: managed states {other.attribute!r} and"
                f" {field.attribute!r} would both be stored as {field.state_name!r}:"
                " give one of them another name, rio.managed_state(name=...)"
            )


class _HasManagedStates(Protocol):
    __rio_managed_states__: ClassVar[tuple[ManagedState, ...]]


def managed_states_of(cls: type[_HasManagedStates]) -> tuple[ManagedStateField, ...]:
    """The managed states of a class. All names in their annotations have to be defined by now.

    :raises BadRegistration: a state breaks a rule, or its annotation names something that is not
        defined.
    """
    fields = tuple(_field_of(cls, marker) for marker in cls.__rio_managed_states__)
    _check_state_names(cls, fields)
    return fields


def _field_of(cls: type, marker: ManagedState) -> ManagedStateField:
    try:
        field = marker.field((vars(cls),))
        codec.check_serialisable(field.state_type)
        defaults.check_parts(field.state_type)
        upcasters.check_chain(field.state_type)
    except BadRegistration:
        raise
    except (NameError, TypeError) as problem:
        raise BadRegistration(
            f"a managed state of {type_hints.full_name(cls)} cannot be used: {problem}"
        ) from problem
    return field
