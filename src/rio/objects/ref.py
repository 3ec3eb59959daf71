"""A reference to an object by class and id, whose handlers can be called as if it were here; and
the contract of what sends for it.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, Protocol, TypeVar, cast, overload

from rio import type_hints
from rio.identity import ObjectId, type_name_of
from rio.objects.handler import Handler
from rio.objects.message import NO_REPLY_DECLARED, DynamicMessage, Message, reply_type_of
from rio.objects.service_object import ServiceObject

T = TypeVar("T")
R = TypeVar("R")


class Sender(Protocol):
    """What can send a message to an object: the client, and a live object itself."""

    @overload
    def send(
        self,
        object_type: type[ServiceObject] | str,
        id: str,
        message: Message[R],
        /,
        *,
        timeout: float | None = None,
    ) -> Awaitable[R]: ...
    @overload
    def send(
        self,
        object_type: type[ServiceObject] | str,
        id: str,
        message: DynamicMessage,
        /,
        *,
        timeout: float | None = None,
    ) -> Awaitable[Any]: ...
    @overload
    def send(
        self,
        object_type: type[ServiceObject] | str,
        id: str,
        message: Message[Any] | DynamicMessage,
        /,
        *,
        returns: type[T],
        timeout: float | None = None,
    ) -> Awaitable[T]: ...


class _Sends(Protocol):
    """The part of a :class:`Sender`, or of an activation, that a reference uses."""

    def send(
        self, object_type: Any, id: str, message: Any, /, *, timeout: float | None = None
    ) -> Awaitable[Any]: ...


def ref(sender: _Sends, object_type: type[T], id: str) -> T:
    """A :class:`Ref`, typed as the class it refers to. Nothing is sent until a handler is called.

    :raises BadIdentity: the id is empty or longer than 512 bytes.
    :raises TypeError: ``object_type`` is no service object class.
    """
    return cast(T, Ref(sender, object_type, id))


class Ref:
    """Stands for an object that lives somewhere else.

    Its attributes are the handlers of the object's class.
    """

    __slots__ = ("_object_type", "_sender", "id", "object_id")

    _object_type: type[ServiceObject]
    _sender: _Sends
    id: str
    object_id: ObjectId

    def __init__(self, sender: _Sends, object_type: type, id: str) -> None:
        if not (isinstance(object_type, type) and issubclass(object_type, ServiceObject)):
            raise TypeError(
                f"a reference needs a subclass of rio.ServiceObject, got {object_type!r}; to address a type by name use send()"
            )
        object.__setattr__(self, "_sender", sender)
        object.__setattr__(self, "_object_type", object_type)
        object.__setattr__(self, "object_id", ObjectId.checked(type_name_of(object_type), id))
        object.__setattr__(self, "id", id)

    def __getattr__(self, name: str) -> RefMethod:
        handler = self._object_type.__rio_handlers__.get(name)
        if handler is None:
            known = ", ".join(self._object_type.__rio_handlers__) or "none"
            kind = type_hints.short_name(self._object_type)
            raise AttributeError(
                f"{kind} has no handler {name!r}, and a reference has nothing else. It has: {known}"
            )
        return RefMethod(self, handler)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{self!r} cannot be changed (setting {name!r}): send the object a message"
        )

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._object_type.__rio_handlers__]

    def __repr__(self) -> str:
        return f"<ref to {self.object_id}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        return self.object_id == other.object_id and self._sender is other._sender

    def __hash__(self) -> int:
        return hash(self.object_id)


class RefMethod:
    """A handler of an object that lives somewhere else: call it with the message, await the reply."""

    __slots__ = ("_handler", "_ref")

    def __init__(self, ref: Ref, handler: Handler[Any, Any, Any]) -> None:
        self._ref = ref
        self._handler = handler

    def __call__(self, message: Any, /, *, timeout: float | None = None) -> Awaitable[Any]:
        """Send the message. ``timeout`` is in seconds.

        :raises TypeError: it is not the message that this handler takes.
        """
        ref, expected = self._ref, self._handler.message_type
        if expected is None:
            message = DynamicMessage(self._handler.message_name, message)
        elif type(message) is not expected:
            raise TypeError(
                f"{type_hints.short_name(ref._object_type)}.{self._handler.name} takes a {type_hints.short_name(expected)}, got {message!r:.200}"
            )
        return ref._sender.send(ref._object_type, ref.id, message, timeout=timeout)

    def __repr__(self) -> str:
        return f"<{self._handler.name} of {self._ref!r}>"


def expected_reply(
    object_type: type[ServiceObject] | str,
    message: Message[Any] | DynamicMessage,
    returns: Any = None,
) -> Any:
    """The type into which the reply is decoded: ``returns`` if it is given, else what the message
    declares, else what the handler of ``object_type`` returns if that is a class, else ``Any``.

    :raises NameError: the message declares a reply that is not defined.
    """
    if returns is not None and returns is not NO_REPLY_DECLARED:
        return returns
    if isinstance(message, DynamicMessage):
        return _reply_of_handler(object_type, message.type_name)
    declared = reply_type_of(type(message))
    return (
        _reply_of_handler(object_type, type_name_of(type(message)))
        if declared is NO_REPLY_DECLARED
        else declared
    )


def _reply_of_handler(object_type: type[ServiceObject] | str, message_name: str) -> Any:
    if isinstance(object_type, str):
        return Any
    replies = (
        handler.reply_type
        for handler in object_type.__rio_handlers__.values()
        if handler.message_name == message_name
    )
    return next(replies, Any)
