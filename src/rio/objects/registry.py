"""The classes that a server hosts, with their declarations, which are read and checked once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
from msgspec.structs import replace

from rio import type_hints
from rio.contracts.state import StateStorage
from rio.errors import BadRegistration
from rio.identity import type_name_of
from rio.objects.handler import Handler, index_by_message_name
from rio.objects.lifecycle import LifecycleHooks, hooks_of
from rio.objects.managed_state import ManagedStateField, managed_states_of
from rio.objects.name_clash import remedy_for_clash
from rio.objects.service_object import ServiceObject, check_name_is_free

T = TypeVar("T", bound=type[ServiceObject])


class RegisteredType(msgspec.Struct, frozen=True):
    """A class of service objects with everything that the runtime needs to know of it.

    A record never changes; adding a handler makes another record.
    """

    cls: type[ServiceObject]
    type_name: str
    handlers: Mapping[str, Handler[Any, Any, Any]]
    """The handlers by the names of their messages on the wire."""
    managed_states: tuple[ManagedStateField, ...]
    hooks: LifecycleHooks
    has_loading_steps: bool
    """Whether anything is to be done when an object comes to life."""


class Registry:
    """The classes that a server hosts: ``rio.Registry(Account, Room)``.

    A class is in it under its type name. ``in`` takes a class or a type name, ``len()`` gives the
    number of classes. Once a server uses the registry, you can add nothing to it.

    :raises BadRegistration: a class or a handler breaks a rule, or two classes or messages have one
        name; the text says what to change.
    """

    def __init__(self, *classes: type[ServiceObject]) -> None:
        self._types: dict[str, RegisteredType] = {}
        self._messages: dict[str, type] = {}
        self._frozen = False
        for cls in classes:
            self.add_type(cls)

    def add_type(self, cls: T) -> T:
        """Add a class, and return it, so that this works as a decorator.

        Adding a class again changes nothing.

        :raises BadRegistration: the class breaks a rule, another class or message has its name, or
            a server already uses this registry.
        """
        if not (isinstance(cls, type) and issubclass(cls, ServiceObject)) or cls is ServiceObject:
            raise BadRegistration(f"a registry takes subclasses of rio.ServiceObject, got {cls!r}")
        known = self._types.get(type_name_of(cls))
        if known is None:
            self._check_not_frozen(cls)
            self._keep(_read_class(cls))
        elif known.cls is not cls:
            raise BadRegistration(
                f"classes {type_hints.full_name(known.cls)} and {type_hints.full_name(cls)} have"
                f" one type name, {known.type_name!r}: {remedy_for_clash(known.cls, cls)}"
            )
        return cls

    def add_handler(
        self, cls: type[ServiceObject], function: Callable[..., Any] | Handler[Any, Any, Any]
    ) -> Handler[Any, Any, Any]:
        """Add a handler that is defined outside of its class, and return it.

        ``function`` takes ``(instance, message)`` or ``(instance, message, app: rio.AppData)``, and
        is annotated like a method. The class is added if it is not there yet. From now on, all
        references to objects of the class in this process have the handler under the function's
        name.

        :raises BadRegistration: the function or the class breaks a rule, the class has a handler
            for the message or of that name already, or a server already uses this registry.
        """
        self._check_not_frozen(cls)
        if isinstance(function, type):
            raise BadRegistration(
                f"add_handler takes a function, and {type_hints.full_name(function)} is a class:"
                " the methods that a class marks with @rio.handler come with add_type"
            )
        self.add_type(cls)
        added = function if isinstance(function, Handler) else Handler(function)
        known = self._types[type_name_of(cls)]
        if added in known.handlers.values():
            return added
        _check_handler_name(known, added)
        handlers = index_by_message_name(cls, (*known.handlers.values(), added))
        self._keep(replace(known, handlers=MappingProxyType(handlers)))
        _tell_references(cls, added)
        return added

    def freeze(self) -> None:
        """Refuse additions from now on. A server calls this when it starts to use the registry."""
        self._frozen = True

    def get(self, type_name: str) -> RegisteredType | None:
        """The record of the class with this type name, or ``None`` if there is none."""
        return self._types.get(type_name)

    def __getitem__(self, type_name: str) -> RegisteredType:
        """The record of the class with this type name.

        :raises KeyError: there is none.
        """
        return self._types[type_name]

    def __contains__(self, item: object) -> bool:
        """Whether this class, or a class with this type name, is in the registry."""
        if isinstance(item, str):
            return item in self._types
        return any(record.cls is item for record in self._types.values())

    def __iter__(self) -> Iterator[RegisteredType]:
        return iter(self._types.values())

    def __len__(self) -> int:
        return len(self._types)

    def __repr__(self) -> str:
        return f"Registry({', '.join(record.cls.__name__ for record in self)})"

    def _keep(self, record: RegisteredType) -> None:
        messages = self._collect_messages(record)
        self._types[record.type_name] = record
        self._messages = messages

    def _collect_messages(self, record: RegisteredType) -> dict[str, type]:
        """The message classes of the registry by name, and those of ``record``.

        :raises BadRegistration: two message classes have one name.
        """
        messages = dict(self._messages)
        for name, handler in record.handlers.items():
            message_type = handler.message_type
            if message_type is None:
                continue
            known = messages.setdefault(name, message_type)
            if known is not message_type:
                raise BadRegistration(
                    f"message classes {type_hints.full_name(known)} and"
                    f" {type_hints.full_name(message_type)} (of {handler!r}) have one type name,"
                    f" {name!r}: {remedy_for_clash(known, message_type)}"
                )
        return messages

    def _check_not_frozen(self, cls: type) -> None:
        if self._frozen:
            raise BadRegistration(
                f"{type_hints.full_name(cls)} comes too late, because a server already uses this"
                " registry: add it before the server starts"
            )


def replace_storages(
    registry: Registry, change: Callable[[StateStorage], StateStorage]
) -> Registry:
    """A registry of the same classes in which ``change`` has replaced the storages of bytes of
    their own that managed states have. It is for one server of a test; nothing can be added to
    ``registry`` any more.
    """
    registry.freeze()
    changed = Registry()
    for record in registry:
        states = tuple(
            replace(field, storage=change(field.storage))
            if isinstance(field.storage, StateStorage)
            else field
            for field in record.managed_states
        )
        changed._keep(replace(record, managed_states=states))
    return changed


def _read_class(cls: type[ServiceObject]) -> RegisteredType:
    _check_construction(cls)
    handlers = index_by_message_name(cls, cls.__rio_handlers__.values())
    states = managed_states_of(cls)
    hooks = hooks_of(cls)
    return RegisteredType(
        cls,
        type_name_of(cls),
        MappingProxyType(handlers),
        states,
        hooks,
        has_loading_steps=bool(states or hooks.before_load or hooks.load or hooks.after_load),
    )


def _check_handler_name(known: RegisteredType, added: Handler[Any, Any, Any]) -> None:
    """Make sure that a reference can have a handler under its name.

    :raises BadRegistration: something else has that name.
    """
    check_name_is_free(known.cls, added.name)
    for other in known.handlers.values():
        if other.name == added.name:
            raise BadRegistration(
                f"{type_hints.full_name(known.cls)} has two handlers named {added.name!r},"
                f" {other!r} and {added!r}: choose another name, under which references have it"
            )


def _tell_references(cls: type[ServiceObject], added: Handler[Any, Any, Any]) -> None:
    others = cls.__dict__.get("__rio_added_handlers__", {})
    cls.__rio_added_handlers__ = {**others, added.name: added}
    cls.__rio_reference_class__ = None  # it may have a method of this name, of another registry


def _check_construction(cls: type[ServiceObject]) -> None:
    """Make sure that the runtime can make instances of ``cls``.

    :raises BadRegistration: it cannot.
    """
    if inspect.isabstract(cls):
        raise BadRegistration(
            f"{type_hints.full_name(cls)} is abstract: register a subclass that implements it"
        )
    try:
        inspect.signature(cls.__init__).bind(None)
    except TypeError as problem:
        raise BadRegistration(
            f"{type_hints.full_name(cls)}.__init__ ({type_hints.line_of(cls.__init__)}):"
            f" {problem}. A server calls the class without arguments: give the parameters"
            " defaults, or set things up in after_load(self, app: rio.AppData)"
        ) from problem
