"""Messages, which travel to objects, and the reply that each of them declares."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Callable, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from rio import type_hints
from rio.errors import BadMessage, BadRegistration
from rio.identity import MAX_TYPE_NAME_BYTES, check_name, default_name
from rio.objects import defaults
from rio.objects.round_trip import Unreadable, round_trip_of
from rio.transport.codec import encode, encode_dynamic

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)


M = TypeVar("M", bound="Message[Any] | DynamicMessage")


class NoReply(enum.Enum):
    """The type of :data:`NO_REPLY_DECLARED`."""

    DECLARED = "no reply declared"


NO_REPLY_DECLARED: Final = NoReply.DECLARED
"""The result of :func:`reply_type_of` for a message that declares no reply."""


# on the metaclass, so that a message may be frozen although its base is not
@dataclass_transform(field_specifiers=(msgspec.field,))
class MessageType(msgspec.StructMeta):
    """The class of message classes, which takes the keywords of a class statement.

    ``__init_subclass__`` cannot take them, because ``msgspec`` reads all keywords before it runs.
    """

    def __new__(
        mcls,
        name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        /,
        *,
        type_name: str | None = None,
        idempotent: bool | None = None,
        readonly: bool | None = None,
        **config: Any,
    ) -> Any:
        if type_name is None:
            wire_name = default_name(name, namespace.get("__module__"))
        else:
            wire_name = type_name
        check_name(f"type name of message {name}", wire_name, MAX_TYPE_NAME_BYTES, BadRegistration)
        namespace["__rio_type_name__"] = wire_name
        if idempotent is not None:
            namespace["__rio_idempotent__"] = idempotent
        if readonly is not None:
            namespace["__rio_readonly__"] = readonly
        cls = super().__new__(mcls, name, bases, namespace, **config)
        if cls.__struct_config__.array_like:
            raise BadRegistration(
                f"message {name}: leave out array_like=True, because a message travels as a map,"
                " so that you can add fields later"
            )
        defaults.check_struct(cls)
        if "__rio_root__" not in namespace:
            _resolve_reply_early(cls)
        return cls


class Message(msgspec.Struct, Generic[R_co], metaclass=MessageType):
    """A typed record that is sent to an object, and checked when it arrives.

    Subclass it, and declare fields as in a dataclass. The type in the brackets is the type of the
    reply::

        class Deposit(rio.Message[Balance]):
            amount: int

    The reply of a ``Message[None]`` says only "done". A bare ``Message`` declares no reply: then
    callers say what they expect (``returns=``), or get plain values. A field, and a reply, can have
    any type that msgspec encodes as MessagePack.

    These are the keywords of the class statement:

    * ``type_name="..."``: the name on the wire, 1 to 128 bytes of UTF-8. By default it is the name
      of the class, behind the ``__rio_namespace__`` of its module if there is one; a subclass does
      not inherit it.
    * ``readonly=True``: handling the message changes nothing.
    * ``idempotent=True``: handling the message twice does no harm. If a message is either of the
      two, the client may repeat a call whose outcome is unknown. Subclasses inherit both.
    * the keywords of :class:`msgspec.Struct`, such as ``frozen`` and ``kw_only``, except
      ``array_like``.

    :raises BadRegistration: (when the class is made) the type name is empty or too long,
        ``array_like`` is true, or a default can change and would be shared by all messages.
    """

    if TYPE_CHECKING:
        __rio_type_name__: ClassVar[str]
        __rio_idempotent__: ClassVar[bool]
        __rio_readonly__: ClassVar[bool]

        def __init_subclass__(
            cls,
            *,
            type_name: str | None = None,
            idempotent: bool | None = None,
            readonly: bool | None = None,
            tag: bool | str | int | Callable[[str], str | int] | None = None,
            tag_field: str | None = None,
            rename: Literal["lower", "upper", "camel", "pascal", "kebab"]
            | Callable[[str], str | None]
            | Mapping[str, str]
            | None = None,
            omit_defaults: bool = False,
            forbid_unknown_fields: bool = False,
            frozen: bool = False,
            eq: bool = True,
            order: bool = False,
            kw_only: bool = False,
            repr_omit_defaults: bool = False,
            gc: bool = True,
            weakref: bool = False,
            dict: bool = False,
            cache_hash: bool = False,
        ) -> None: ...

    else:
        __rio_root__ = True
        __rio_idempotent__ = False
        __rio_readonly__ = False


def reply_type_of(
    message_type: type[Message[Any]], local_names: Iterable[type_hints.Namespace] = ()
) -> Any:
    """The type of the reply that ``message_type`` declares.

    It is ``Balance`` for a ``Message[Balance]``, ``NoneType`` for a ``Message[None]``, and
    :data:`NO_REPLY_DECLARED` for a bare ``Message``. A forward reference is looked up in
    ``local_names``, then in the module of the class that wrote it.

    :raises NameError: a forward reference names something that is not defined (yet).
    """
    known = message_type.__dict__.get("__rio_reply_type__")
    return _resolve_reply(message_type, tuple(local_names)) if known is None else known


def _resolve_reply_early(cls: type) -> None:
    """Read the reply now, while the names that are local to a function exist."""
    with contextlib.suppress(NameError):  # then reply_type_of reads it
        _resolve_reply(cls, (type_hints.names_around(cls),))


def _resolve_reply(cls: type, local_names: tuple[type_hints.Namespace, ...]) -> Any:
    reply = _declared_reply(cls, local_names)
    if isinstance(reply, TypeVar) or getattr(reply, "__parameters__", None):
        reply = NO_REPLY_DECLARED
    type.__setattr__(cls, "__rio_reply_type__", reply)
    return reply


def _declared_reply(cls: type, local_names: tuple[type_hints.Namespace, ...]) -> Any:
    """The reply as ``cls`` declares it; it may hold type variables of ``cls``."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if not isinstance(origin, MessageType):
            continue
        arguments = tuple(
            type_hints.of_annotation(argument, cls.__module__, local_names)
            for argument in get_args(base)
        )
        if origin.__dict__.get("__rio_root__"):
            return arguments[0] if arguments else NO_REPLY_DECLARED
        inherited = _declared_reply(
            origin, local_names if origin.__module__ == cls.__module__ else ()
        )
        return _substitute(inherited, origin, arguments)
    return NO_REPLY_DECLARED


def _substitute(reply: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
    """The reply that ``origin`` declares, with ``arguments`` for its type variables."""
    bound = dict(zip(origin.__parameters__, arguments, strict=False)) if arguments else {}
    if isinstance(reply, TypeVar):
        return bound.get(reply, NO_REPLY_DECLARED)
    variables = getattr(reply, "__parameters__", None)
    return (
        reply[tuple(bound.get(variable, variable) for variable in variables)]
        if variables and bound
        else reply
    )


class DynamicMessage(msgspec.Struct, frozen=True):
    """A message of a program that does not have the message's class.

    ``type_name`` is the name of the message on the wire, 1 to 128 bytes of UTF-8. ``value`` is of
    MessagePack types: for a handler that takes a :class:`rio.Message` it is a map from the names of
    the fields to their values, for a dynamic handler it is what that handler expects.

    :raises BadIdentity: the type name is not a string, is empty or is too long.
    """

    type_name: str
    value: Any = None

    def __post_init__(self) -> None:
        check_name("type name of a message", self.type_name, MAX_TYPE_NAME_BYTES)


def encode_message(message: Message[Any] | DynamicMessage) -> bytes:
    """The payload of a message: its fields, or its value, as MessagePack.

    :raises BadMessage: the message holds a value that MessagePack cannot carry.
    """
    if isinstance(message, DynamicMessage):
        return encode_dynamic(message.value, failure=BadMessage)
    return encode(message, failure=BadMessage)


def encode_event(event: Message[Any]) -> bytes:
    """The payload of an event. The subscribers will read it as it is: nobody could tell them what
    it should have been.

    :raises BadMessage: it holds a value that MessagePack cannot carry, or that would be read as
        another one.
    :raises TypeError: it is no :class:`rio.Message`, so no subscriber could ask for it.
    """
    if not isinstance(event, Message):
        raise TypeError(
            f"an event is a rio.Message, got {type_hints.full_name(type(event))}: define a class"
            " for it"
        )
    return _encode_as_it_is(event, "event")


def check(message: M) -> M:
    """Make sure that a message arrives as it is, and return it.

    Neither making a message nor sending it looks at its fields: the server does, and refuses
    ``Ping(5)`` for a ``text: str``. This looks at them here: ``client.send(Room, "lobby",
    rio.check(Ping(5)))`` raises, and sends nothing. It takes about as long as sending: use it in
    tests, and where values come from outside.

    :raises BadMessage: a field holds a value of another type than it declares, one that MessagePack
        cannot carry, or one that would be read as another. The text names the field.
    :raises TypeError: ``message`` is not a :class:`rio.Message` or :class:`rio.DynamicMessage`.
    """
    if isinstance(message, DynamicMessage):
        encode_message(message)
    elif isinstance(message, Message):
        _encode_as_it_is(message, "message")
    else:
        raise TypeError(
            f"check() takes a rio.Message or a rio.DynamicMessage, got {message!r:.200}"
        )
    return message


def _encode_as_it_is(message: Message[Any], what: str) -> bytes:
    """Encode what will be read as the same.

    :raises BadMessage: that is not possible.
    """
    cls = type(message)
    try:
        return round_trip_of(cls).encode(message)
    except (Unreadable, TypeError, NameError) as problem:
        raise BadMessage(f"the {what} {type_hints.full_name(cls)}{problem}") from problem
