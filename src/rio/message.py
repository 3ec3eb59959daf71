"""What travels: messages, state, the fields of application errors, and the codec that turns them
into MessagePack and back.

Typed values go through ``msgspec`` (validated, a path in every error); values without a type go
through ``msgpack``. A record is encoded as a map, so that a field with a default can be added, and
an unknown one ignored, while old and new programs talk to each other.
"""

from __future__ import annotations

import contextlib
import enum
import functools
import gc
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    NamedTuple,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

import msgspec

from rio import hints
from rio.errors import BadMessage, BadReply, CallFailed, RegistrationError, RioError, UnknownError
from rio.identity import MAX_TYPE_NAME_BYTES, check_name, type_name_of

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
            raise RegistrationError(
                f"message {name}: array_like=True is refused, because messages are maps so that fields can be added"
            )
        check_name(
            f"type name of message {name}",
            name if type_name is None else type_name,
            MAX_TYPE_NAME_BYTES,
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

    :raises RegistrationError: ``array_like=True``.
    :raises BadIdentity: the type name is empty or longer than 128 bytes.
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


def reply_type_of(message_type: type[Message[Any]], local_names: Iterable[hints.Names] = ()) -> Any:
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
        _resolve_reply(cls, (hints.names_around(cls),))


def _resolve_reply(cls: type, local_names: tuple[hints.Names, ...]) -> Any:
    reply = _reply_with_variables(cls, local_names)
    if isinstance(reply, TypeVar) or getattr(reply, "__parameters__", None):
        reply = NO_REPLY_DECLARED
    type.__setattr__(cls, "__rio_reply_type__", reply)
    return reply


def _reply_with_variables(cls: type, local_names: tuple[hints.Names, ...]) -> Any:
    """The reply as ``cls`` declares it, with the type variables of ``cls`` left in."""
    for base in cls.__dict__.get("__orig_bases__", cls.__bases__):
        origin = get_origin(base) or base
        if not isinstance(origin, MessageType):
            continue
        arguments = tuple(
            hints.of_annotation(argument, cls.__module__, local_names)
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


class State(msgspec.Struct):
    """The base of what an object remembers.

    Every field has a default, because an object that was never saved starts with them.
    """


# --- application errors ---------------------------------------------------------------------------


class _Field(NamedTuple):
    annotation: Any
    default: Any
    module: str


class _Computed:
    """An attribute that is computed unless the instance has one of its own of that name."""

    def __init__(self, compute: Callable[[Any], Any]) -> None:
        self._compute = compute
        self.__doc__ = compute.__doc__

    def __get__(self, instance: Any, owner: type) -> Any:
        return self if instance is None else self._compute(instance)


_CLASS_OF_ERROR_NAME: weakref.WeakValueDictionary[str, type[ApplicationError]] = (
    weakref.WeakValueDictionary()
)
_CLASS_VARIABLE = re.compile(r"(\w+\.)?ClassVar\b")


@dataclass_transform(eq_default=False, field_specifiers=(msgspec.field,))
class ApplicationError(CallFailed):
    """An outcome that callers are meant to handle: ``class InsufficientFunds(rio.ApplicationError):
    missing: int``.

    Raise it in a handler (``raise InsufficientFunds(missing=3)``) and it arrives at the caller as
    the same class with its fields, and the object lives on. Fields are declared, given and read as
    those of a dataclass; a field ``message: str`` is the text of the error. If the caller's program
    has no class of that name, or one that the fields do not fit, it gets
    :class:`UnknownApplicationError`. Any other exception is a fault: the caller gets
    :class:`rio.errors.HandlerError`, and the object is dropped from memory.

    ``type_name=`` in the class statement is its name on the wire (default: the name of the class).

    :raises RegistrationError: another class has this type name, or a field's name is taken by
    exceptions themselves.
    :raises BadIdentity: the type name is empty or longer than 128 bytes.
    """

    code = "application_error"

    __rio_type_name__: ClassVar[str]
    __rio_fields__: ClassVar[dict[str, _Field]] = {}
    __rio_record__: ClassVar[type[msgspec.Struct]]

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:

        def __init__(self, *args, **kwargs):
            if type(self) is ApplicationError:
                raise TypeError(
                    "subclass rio.ApplicationError and declare fields: callers tell application errors apart by their class"
                )
            record = self.__rio_record__(*args, **kwargs)
            values = [getattr(record, name) for name in self.__rio_fields__]
            Exception.__init__(self, *values)
            self.__dict__.update(zip(self.__rio_fields__, values, strict=True))

        @_Computed
        def message(self):
            """The error as one line of text."""
            return str(self) or type(self).__name__

        @_Computed
        def detail(self):
            """How it travels: ``[type name, map of its fields]``.

            :raises TypeError: a field holds something that MessagePack cannot express.
            """
            return [self.__rio_type_name__, self._encoded_fields()]

    def __init_subclass__(cls, *, type_name: str | None = None) -> None:
        cls.__rio_type_name__ = cls.__name__ if type_name is None else type_name
        check_name(f"type name of error {cls.__name__}", cls.__rio_type_name__, MAX_TYPE_NAME_BYTES)
        cls.__rio_fields__ = _fields_of_error(cls)
        super().__init_subclass__()
        cls.__rio_record__ = _record_of(cls, dict.fromkeys(cls.__rio_fields__, Any))
        with contextlib.suppress(NameError):  # then from_wire asks again
            _check_fields(cls, cls._typed_record((hints.names_around(cls),)))
        _enter(cls)

    @staticmethod
    def from_wire(detail: Any) -> RioError:
        """The error that arrived as ``detail``; see the class for what becomes of one that is not
        known here.
        """
        if not (
            isinstance(detail, (list, tuple)) and len(detail) == 2 and isinstance(detail[0], str)
        ):
            return UnknownError(
                f"an application error of unknown form arrived: {detail!r:.200}",
                [ApplicationError.code, detail],
            )
        name, fields = detail
        cls = _CLASS_OF_ERROR_NAME.get(name)
        if cls is None:
            return UnknownApplicationError(
                name, fields, "this program has no application error of that name"
            )
        try:
            record = msgspec.convert(fields, cls._typed_record())
        except (msgspec.MsgspecError, NameError, TypeError, ValueError, RecursionError) as problem:
            return UnknownApplicationError(
                name, fields, f"the fields do not fit {hints.qualified(cls)}: {problem}"
            )
        return _restore(cls, {field: getattr(record, field) for field in cls.__rio_fields__})

    @classmethod
    def _typed_record(cls, local_names: tuple[hints.Names, ...] = ()) -> type[msgspec.Struct]:
        """The record whose fields have their types: made when first needed, since the annotations
        may be forward references.
        """
        known = cls.__dict__.get("__rio_typed_record__")
        if known is None:
            fields = cls.__rio_fields__.items()
            known = _record_of(
                cls,
                {
                    name: hints.of_annotation(field.annotation, field.module, local_names)
                    for name, field in fields
                },
            )
            type.__setattr__(cls, "__rio_typed_record__", known)
        return cast(type[msgspec.Struct], known)

    def _field_values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__rio_fields__}

    def _encoded_fields(self) -> Any:
        try:
            return msgspec.to_builtins(
                self.__rio_record__(**self._field_values()), builtin_types=_NATIVE
            )
        except (TypeError, ValueError, RecursionError) as problem:
            raise TypeError(
                f"application error {hints.qualified(type(self))} cannot travel: {problem}"
            ) from problem

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._field_values().items())})"

    def __str__(self) -> str:
        values = self._field_values()
        text = str(values.pop("message", ""))
        rest = ", ".join(f"{name}={value!r}" for name, value in values.items())
        return f"{text} ({rest})" if text and rest else text or rest

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ApplicationError) or type(self) is not type(other):
            return NotImplemented
        return self._field_values() == other._field_values()

    def __hash__(self) -> int:
        return hash(type(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), self._field_values()), self.__dict__.copy()


def _fields_of_error(cls: type[ApplicationError]) -> dict[str, _Field]:
    """The fields of an error class, inherited ones first; each remembers the module in which its
    annotation was written.
    """
    fields = {
        name: field
        for base in reversed(cls.__mro__[1:])
        for name, field in base.__dict__.get("__rio_fields__", {}).items()
    }
    for name, annotation in hints.of_class(cls).items():
        if (
            get_origin(annotation) is ClassVar
            or annotation is ClassVar
            or _CLASS_VARIABLE.match(str(annotation))
        ):
            continue
        if (
            (name != "message" and hasattr(ApplicationError, name))
            or name in ("detail", "args")
            or name.startswith("__")
        ):
            raise RegistrationError(
                f"application error {hints.qualified(cls)}: a field cannot be called {name!r}, choose another name"
            )
        default = cls.__dict__.get(name, msgspec.NODEFAULT)
        if isinstance(default, _FIELD_SPECIFIER):
            delattr(cls, name)
        fields[name] = _Field(annotation, default, cls.__module__)
    return fields


def _record_of(cls: type[ApplicationError], types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """The hidden struct that takes, checks and encodes the fields of an error class."""
    definition = [(name, types[name], field.default) for name, field in cls.__rio_fields__.items()]
    return msgspec.defstruct(cls.__name__, definition, module=cls.__module__)


def _check_fields(cls: type[ApplicationError], record: type[msgspec.Struct]) -> None:
    try:
        check_serialisable(record)
    except TypeError as problem:
        raise RegistrationError(
            f"application error {hints.qualified(cls)} cannot travel: {problem}"
        ) from problem


def _enter(cls: type[ApplicationError]) -> None:
    """Make an error class known by its name.

    The same class made again (a reloaded module, a notebook's cell) replaces itself.
    """
    known = _CLASS_OF_ERROR_NAME.get(cls.__rio_type_name__)
    if known is not None and not _same_place(known, cls):
        del known
        gc.collect()  # a class lives in a cycle: a dead one may still be in the table
        known = _CLASS_OF_ERROR_NAME.get(cls.__rio_type_name__)
        if known is not None:
            raise RegistrationError(
                f"application errors {hints.qualified(known)} and {hints.qualified(cls)} would both travel as {cls.__rio_type_name__!r}: "
                f'give one of them another name with type_name="..." in its class statement'
            )
    _CLASS_OF_ERROR_NAME[cls.__rio_type_name__] = cls


def _same_place(one: type, other: type) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _restore(cls: type[ApplicationError], values: Mapping[str, Any]) -> ApplicationError:
    """An instance with these fields, whatever constructor the class has."""
    error = cls.__new__(cls)
    Exception.__init__(error, *values.values())
    error.__dict__.update(values)
    return error


_FIELD_SPECIFIER = type(msgspec.field())
_NATIVE = (bytes, bytearray, memoryview, datetime)
"""What MessagePack carries as itself, so that it needs no text form."""


class UnknownApplicationError(ApplicationError, type_name="rio.UnknownApplicationError"):
    """An application error whose class this program does not have, or whose fields do not fit the
    class it has.

    Raised on, it travels as what it was.
    """

    type_name: str
    fields: Any
    reason: str = ""

    if not TYPE_CHECKING:

        @_Computed
        def detail(self):
            """As it arrived: ``[type name, fields]``."""
            return [self.type_name, self.fields]

    def __str__(self) -> str:
        return f"application error {self.type_name!r} with {self.fields!r:.500}" + (
            f": {self.reason}" if self.reason else ""
        )


# --- the codec ------------------------------------------------------------------------------------

ENCODER: Final = msgspec.msgpack.Encoder()
"""The one encoder of typed values.

The compiled core calls it directly, and :func:`encode_error` when it fails.
"""

_encode = ENCODER.encode


def encode(value: Any, *, failure: type[RioError] = BadReply) -> bytes:
    """A typed value, or one of plain MessagePack types, as MessagePack.

    :raises BadReply: it holds something that cannot be encoded, which the text names (``failure``
    for what is not a reply).
    """
    try:
        return _encode(value)
    except Exception as problem:
        raise encode_error(problem, value, failure) from problem


def encode_message(message: Message[Any] | DynamicMessage) -> bytes:
    """The payload of a message.

    :raises BadMessage: it holds something that cannot be encoded.
    """
    if isinstance(message, DynamicMessage):
        return encode_dynamic(message.value, failure=BadMessage)
    return encode(message, failure=BadMessage)


def encode_dynamic(value: Any, *, failure: type[RioError] = BadMessage) -> bytes:
    """A value of no declared type as MessagePack.

    Times must be aware. Records, sets, UUIDs and whatever else ``msgspec`` knows become their plain
    form.

    :raises BadMessage: it holds something that cannot be encoded (``failure`` for what is not a
    message).
    """
    import msgpack  # here, because only values without a type need it

    try:
        return cast(bytes, msgpack.packb(value, datetime=True, default=_plain))
    except Exception as problem:
        raise encode_error(problem, value, failure) from problem


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value, builtin_types=_NATIVE)


@functools.lru_cache(maxsize=2048)
def decoder_of(wanted: Any) -> Callable[[bytes], Any]:
    """The function that decodes MessagePack into ``wanted``; for ``Any`` and ``object`` it is
    :func:`decode_dynamic`.

    What it raises is turned into our errors by :func:`decode_error`.

    :raises TypeError: ``msgspec`` cannot decode into this type.
    """
    if wanted is Any or wanted is object:
        return _unpack
    return msgspec.msgpack.Decoder(wanted).decode


def decode(data: bytes, wanted: Any, *, failure: type[RioError] = BadMessage) -> Any:
    """``data`` as a value of type ``wanted``.

    :raises BadMessage: the bytes are no MessagePack or do not fit; the text has the path
    (``failure`` for what is not a message).
    """
    try:
        return decoder_of(wanted)(data)
    except Exception as problem:
        raise decode_error(problem, wanted, failure) from problem


def decode_dynamic(data: bytes, *, failure: type[RioError] = BadMessage) -> Any:
    """``data`` as plain values: dict (with keys of any type), list, str, bytes, int, float, bool,
    None, aware datetime.

    :raises BadMessage: the bytes are no MessagePack, or nested too deeply (``failure`` for what is
    not a message).
    """
    return decode(data, Any, failure=failure)


def _unpack(data: bytes) -> Any:
    import msgpack

    return msgpack.unpackb(data, raw=False, strict_map_key=False, timestamp=3)


def encode_error(
    problem: Exception, value: Any = None, failure: type[RioError] = BadReply
) -> RioError:
    """What to raise when a value could not be encoded: a ``failure`` that names its type and what
    in it is to blame.

    ``None``, which can always be encoded, stands for a value that is not at hand.
    """
    what = "a value" if value is None else f"a value of type {hints.qualified(type(value))}"
    return failure(f"{what} cannot be encoded as MessagePack: {_in_words(problem)}")


def decode_error(problem: Exception, wanted: Any, failure: type[RioError] = BadMessage) -> RioError:
    """What to raise when bytes could not be decoded into ``wanted``: a ``failure`` that names the
    type and the path of the field.
    """
    what = "a plain value" if wanted is Any or wanted is object else hints.qualified(wanted)
    return failure(f"the payload does not decode into {what}: {_in_words(problem)}")


def _in_words(problem: Exception) -> str:
    import msgpack

    if isinstance(problem, (RecursionError, msgpack.exceptions.StackError)):
        return "it is nested too deeply"
    if isinstance(problem, msgpack.exceptions.ExtraData):
        return "there are bytes after its end"
    if isinstance(problem, msgspec.MsgspecError):
        return str(problem)
    return f"{type(problem).__name__}: {problem}" if str(problem) else type(problem).__name__


def check_serialisable(wanted: Any) -> None:
    """Make sure that values of this type can travel.

    :raises TypeError: they cannot; the text names the part that is to blame.
    :raises NameError: a forward reference in one of its fields names nothing that exists by now.
    """
    if wanted is Any or wanted is object:
        return
    decoder_of(wanted)
    foreign = _foreign_part(msgspec.inspect.type_info(wanted), set())
    if foreign is not None:
        raise TypeError(f"{hints.qualified(foreign)} is not a type that MessagePack can carry")


def _foreign_part(info: Any, seen: set[int]) -> Any:
    """The first type inside ``info`` that ``msgspec`` knows no encoding for."""
    if isinstance(info, msgspec.inspect.CustomType):
        return None if info.cls is object else info.cls
    if id(info) in seen:
        return None
    seen.add(id(info))
    if isinstance(info, (tuple, list)):
        parts = info
    elif isinstance(info, (msgspec.inspect.Type, msgspec.inspect.Field)):
        parts = tuple(
            getattr(info, name)
            for name in info.__struct_fields__
            if name not in ("cls", "default", "default_factory")
        )
    else:
        return None
    return next((found for part in parts if (found := _foreign_part(part, seen)) is not None), None)


__all__ = [
    "ENCODER",
    "NO_REPLY_DECLARED",
    "ApplicationError",
    "DynamicMessage",
    "Message",
    "NoReply",
    "State",
    "UnknownApplicationError",
    "check_serialisable",
    "decode",
    "decode_dynamic",
    "decode_error",
    "decoder_of",
    "encode",
    "encode_dynamic",
    "encode_error",
    "encode_message",
    "reply_type_of",
    "type_name_of",
]
