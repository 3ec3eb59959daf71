"""What travels to an object: messages, with the reply that each declares."""

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
from rio.identity import MAX_TYPE_NAME_BYTES, check_name
from rio.transport.codec import encode, encode_dynamic

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    R_co = TypeVar("R_co", covariant=True, default=Any)
else:
    from typing import TypeVar

    R_co = TypeVar("R_co", covariant=True)

T = TypeVar("T")


class NoReply(enum.Enum):
    """The type of :data:`NO_REPLY_DECLARED`."""

    DECLARED = "no reply declared"


NO_REPLY_DECLARED: Final = NoReply.DECLARED
"""What :func:`reply_type_of` says of a message that does not tell what it is answered with."""


# --- messages -------------------------------------------------------------------------------------


@dataclass_transform(
    field_specifiers=(msgspec.field,)
)  # on the metaclass, so that a message may be frozen although its base is not
class MessageType(msgspec.StructMeta):
    """The class of message classes.

    It exists because ``msgspec`` reads the keywords of a class statement before
    ``__init_subclass__``.
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
        array_like: Literal[False] = False,
        **config: Any,
    ) -> Any:
        if array_like:
            raise BadRegistration(
                f"message {name}: array_like=True is refused, because messages are maps so that "
                "fields can be added"
            )
        check_name(
            f"type name of message {name}",
            name if type_name is None else type_name,
            MAX_TYPE_NAME_BYTES,
            BadRegistration,
        )
        namespace["__rio_type_name__"] = name if type_name is None else type_name
        if idempotent is not None:
            namespace["__rio_idempotent__"] = idempotent
        if readonly is not None:
            namespace["__rio_readonly__"] = readonly
        cls = super().__new__(mcls, name, bases, namespace, **config)
        if "__rio_root__" not in namespace:
            _resolve_reply_early(cls)
        return cls


class Message(msgspec.Struct, Generic[R_co], metaclass=MessageType):
    """A typed, validated record that an object can be sent: ``class Deposit(rio.Message[Balance]):
    amount: int``.

    ``Message[Reply]`` says what it is answered with, ``Message[None]`` that there is no answer but
    "done"; a bare ``Message`` says nothing.

    Keywords of the class statement: ``type_name`` is its name on the wire (default: the name of the
    class; a subclass gets its own), ``idempotent`` says that handling it twice does no harm,
    ``readonly`` that handling it changes nothing (both are inherited; either allows a call whose
    outcome is unknown to be sent again). All others are those of :class:`msgspec.Struct`, but
    ``array_like``.

    :raises BadRegistration: ``array_like=True``, or a type name that is empty or longer than 128
    bytes.
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
    """What ``message_type`` is answered with: ``Balance`` for ``Message[Balance]``, ``NoneType``
    for ``Message[None]``, and :data:`NO_REPLY_DECLARED` for a bare ``Message``. Forward references
    are looked up in ``local_names``, then in the module of the class that wrote them.

    :raises NameError: a forward reference names nothing that exists by now.
    """
    known = message_type.__dict__.get("__rio_reply_type__")
    return _resolve_reply(message_type, tuple(local_names)) if known is None else known


def _resolve_reply_early(cls: type) -> None:
    """Read the reply now if its names exist; names that are local to a function exist only now."""
    with contextlib.suppress(NameError):  # then reply_type_of asks again
        _resolve_reply(cls, (type_hints.names_around(cls),))


def _resolve_reply(cls: type, local_names: tuple[type_hints.Namespace, ...]) -> Any:
    reply = _reply_with_variables(cls, local_names)
    if isinstance(reply, TypeVar) or getattr(reply, "__parameters__", None):
        reply = NO_REPLY_DECLARED
    type.__setattr__(cls, "__rio_reply_type__", reply)
    return reply


def _reply_with_variables(cls: type, local_names: tuple[type_hints.Namespace, ...]) -> Any:
    """The reply as ``cls`` declares it, with the type variables of ``cls`` left in."""
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
        inherited = _reply_with_variables(
            origin, local_names if origin.__module__ == cls.__module__ else ()
        )
        return _substituted(inherited, origin, arguments)
    return NO_REPLY_DECLARED


def _substituted(reply: Any, origin: Any, arguments: tuple[Any, ...]) -> Any:
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
    """A message from a program that does not have its class: the message's type name, and a value
    of MessagePack types (a map for a handler that takes a :class:`Message`, anything for a dynamic
    handler).

    :raises BadIdentity: the type name is empty or too long.
    """

    type_name: str
    value: Any = None

    def __post_init__(self) -> None:
        check_name("type name of a message", self.type_name, MAX_TYPE_NAME_BYTES)


def encode_message(message: Message[Any] | DynamicMessage) -> bytes:
    """The payload of a message.

    :raises BadMessage: it holds something that cannot be encoded.
    """
    if isinstance(message, DynamicMessage):
        return encode_dynamic(message.value, failure=BadMessage)
    return encode(message, failure=BadMessage)
