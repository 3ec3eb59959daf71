"""A reference to an object by class and id: its handlers can be called as if it were here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeVar, cast

from rio import type_hints
from rio.identity import MAX_ID_BYTES, ObjectId, check_name, type_name_of
from rio.objects.handler import Handler, callable_handlers
from rio.objects.message import DynamicMessage
from rio.objects.sender import Carrier, Sender
from rio.objects.service_object import ServiceObject

T = TypeVar("T")


def ref(sender: Sender | Carrier, object_type: type[T], id: str) -> T:
    """A :class:`Ref`, typed as the class it refers to. Nothing is sent until a handler is called.

    :raises BadIdentity: ``id`` is not a string of 1 to 512 bytes.
    :raises TypeError: ``object_type`` is not a subclass of :class:`rio.ServiceObject`.
    """
    made = getattr(object_type, "__rio_reference_class__", None)
    if made is None or made._object_type is not object_type:
        made = _make_reference_class(object_type)
    return cast(T, made(sender, id))


class Ref:
    """Stands for an object that lives somewhere else; its attributes are the object's handlers.

    Each class of service objects has a subclass of its own. A handler becomes a method of that
    subclass when it is read for the first time, so a later call costs no more than a method's call.
    """

    __slots__ = ("_sender", "id")

    _object_type: ClassVar[type[ServiceObject]]
    _sender: Sender | Carrier
    id: str

    def __init__(self, sender: Sender | Carrier, id: str) -> None:
        check_name("object id", id, MAX_ID_BYTES)
        object.__setattr__(self, "_sender", sender)
        object.__setattr__(self, "id", id)

    @property
    def object_id(self) -> ObjectId:
        """Type name and id of the object."""
        return ObjectId(type_name_of(self._object_type), self.id)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        handler = callable_handlers(self._object_type).get(name)
        if handler is None:
            raise AttributeError(self._why_not(name))
        method = _make_method(self._object_type, handler)
        setattr(type(self), name, method)
        return cast("Callable[..., Awaitable[Any]]", method.__get__(self))

    def _why_not(self, name: str) -> str:
        known = ", ".join(callable_handlers(self._object_type)) or "none"
        kind = type_hints.short_name(self._object_type)
        why = (
            "it is for the object's own code, and a reference has only handlers"
            if hasattr(ServiceObject, name)
            else "a reference has nothing else"
        )
        return f"{kind} has no handler {name!r}: {why}. It has: {known}"

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{self!r} cannot be changed (setting {name!r}): send the object a message"
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *callable_handlers(self._object_type)]

    def __repr__(self) -> str:
        return f"<ref to {self.object_id}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self.object_id == other.object_id and self._sender is other._sender

    def __hash__(self) -> int:
        return hash(self.object_id)


def _make_reference_class(object_type: Any) -> type[Ref]:
    if not (isinstance(object_type, type) and issubclass(object_type, ServiceObject)):
        raise TypeError(
            f"a reference needs a subclass of rio.ServiceObject, got {object_type!r};"
            " to address a type by name use send()"
        )
    made = type("Ref", (Ref,), {"__slots__": (), "_object_type": object_type})
    object_type.__rio_reference_class__ = made
    return made


def _make_method(
    object_type: type[ServiceObject], handler: Handler[Any, Any, Any]
) -> Callable[..., Awaitable[Any]]:
    """What a reference to objects of ``object_type`` does when this handler is called on it."""
    make = _make_dynamic_method if handler.message_type is None else _make_typed_method
    method = make(object_type, handler)
    method.__name__ = handler.name
    method.__qualname__ = f"{type_hints.short_name(object_type)}.{handler.name}"
    method.__doc__ = handler.__doc__
    return method


def _make_typed_method(
    object_type: type[ServiceObject], handler: Handler[Any, Any, Any]
) -> Callable[..., Awaitable[Any]]:
    expected = handler.message_type

    def send(
        self: Ref, message: Any = None, /, *, timeout: float | None = None, **fields: Any
    ) -> Awaitable[Any]:
        if type(message) is not expected or fields:
            given = ", ".join(f"{name}={value!r:.50}" for name, value in fields.items())
            name = type_hints.short_name(expected)
            got = f"{message!r:.200}" if message is not None else "none"
            raise TypeError(
                f"{type_hints.short_name(object_type)}.{handler.name} takes a {name}, got {got}:"
                f" write {handler.name}({name}({given or '...'}))"
            )
        return self._sender.send(object_type, self.id, message, timeout=timeout)

    return send


def _make_dynamic_method(
    object_type: type[ServiceObject], handler: Handler[Any, Any, Any]
) -> Callable[..., Awaitable[Any]]:
    message_name = handler.message_name

    def send(self: Ref, value: Any, /, *, timeout: float | None = None) -> Awaitable[Any]:
        message = DynamicMessage(message_name, value)
        return self._sender.send(object_type, self.id, message, timeout=timeout)

    return send
