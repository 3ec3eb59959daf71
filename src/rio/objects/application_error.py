"""The errors that an application raises for its callers, with fields that travel."""

from __future__ import annotations

import contextlib
import gc
import re
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast, dataclass_transform, get_origin

import msgspec

from rio import type_hints
from rio.errors import APPLICATION_ERROR, BadRegistration, CallFailed, RioError, UnknownCode
from rio.identity import MAX_TYPE_NAME_BYTES, check_name, default_name
from rio.objects import defaults
from rio.objects.name_clash import remedy_for_clash
from rio.objects.round_trip import round_trip_of
from rio.transport.codec import NATIVE_TYPES, check_serialisable, describe


class _Field(msgspec.Struct, frozen=True):
    """A field that an error class declares."""

    annotation: Any
    default: Any
    """``msgspec.NODEFAULT`` if the field has none."""
    module: str
    """The module in which the annotation was written, and in which it is read."""


class _ComputedAttribute:
    """An attribute that is computed, unless the instance has a value of its own under that name."""

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
    """The base of the errors that a handler raises for its callers to catch.

    Subclass it, and declare fields as in a dataclass::

        class InsufficientFunds(rio.ApplicationError):
            missing: int

    ``raise InsufficientFunds(missing=3)`` in a handler arrives at the caller as the same class with
    the same fields, and the object lives on. A field ``message: str`` is the text of the error. The
    types of the fields are those that a :class:`rio.Message` can have.

    If the caller's program has no class of that name, or the fields do not fit the class that it
    has, the caller gets an :class:`rio.UnknownApplicationError`. Any other exception of a handler
    is a fault: the caller gets :class:`rio.errors.HandlerFailed`, and the object is dropped from
    memory.

    ``type_name="..."`` in the class statement sets the name on the wire, 1 to 128 bytes of UTF-8;
    by default it is the name of the class, behind the ``__rio_namespace__`` of its module if there
    is one. Two error classes of a program cannot have one name.

    :raises BadRegistration: (when the class is made) the type name is empty, too long or that of
        another error class, a field has a name that exceptions need, or a field's type cannot
        travel.
    :raises TypeError: (when an error is made) the arguments do not fit the fields, or the class is
        :class:`rio.ApplicationError` itself.
    """

    code = APPLICATION_ERROR

    __rio_type_name__: ClassVar[str]
    __rio_fields__: ClassVar[dict[str, _Field]] = {}
    __rio_record__: ClassVar[type[msgspec.Struct]]

    if TYPE_CHECKING:

        def __init__(self) -> None: ...

    else:

        def __init__(self, *args, **kwargs):
            if type(self) is ApplicationError:
                raise TypeError(
                    "rio.ApplicationError itself cannot be raised: subclass it and declare fields,"
                    " because callers tell application errors apart by their class"
                )
            record = self.__rio_record__(*args, **kwargs)
            values = [getattr(record, name) for name in self.__rio_fields__]
            Exception.__init__(self, *values)
            self.__dict__.update(zip(self.__rio_fields__, values, strict=True))

        @_ComputedAttribute
        def message(self):
            """The error as one line of text."""
            return str(self) or type(self).__name__

        @_ComputedAttribute
        def detail(self):
            """The form in which the error travels: ``[type name, map of its fields]``.

            :raises TypeError: a field holds a value that MessagePack cannot carry, or that the
                caller would read as another one.
            """
            return [self.__rio_type_name__, self._encoded_fields()]

    def __init_subclass__(cls, *, type_name: str | None = None) -> None:
        name = default_name(cls.__name__, cls.__module__) if type_name is None else type_name
        cls.__rio_type_name__ = name
        check_name(f"type name of error {cls.__name__}", name, MAX_TYPE_NAME_BYTES, BadRegistration)
        cls.__rio_fields__ = _fields_of_error(cls)
        super().__init_subclass__()
        cls.__rio_record__ = _record_of(cls, dict.fromkeys(cls.__rio_fields__, Any))
        defaults.check_struct(cls.__rio_record__)
        with contextlib.suppress(NameError):  # then decode_application_error reads them
            _check_fields(cls, cls._typed_record((type_hints.names_around(cls),)))
        _register(cls)

    @classmethod
    def _typed_record(
        cls, local_names: tuple[type_hints.Namespace, ...] = ()
    ) -> type[msgspec.Struct]:
        """The record that checks the types of the fields.

        It is made when it is needed for the first time, because annotations may be forward
        references.

        :raises NameError: an annotation names something that is not defined yet.
        """
        known = cls.__dict__.get("__rio_typed_record__")
        if known is None:
            fields = cls.__rio_fields__.items()
            known = _record_of(
                cls,
                {
                    name: type_hints.of_annotation(field.annotation, field.module, local_names)
                    for name, field in fields
                },
            )
            type.__setattr__(cls, "__rio_typed_record__", known)
        return cast(type[msgspec.Struct], known)

    def _field_values(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__rio_fields__}

    def _encoded_fields(self) -> Any:
        try:
            self._check_fields()
            return msgspec.to_builtins(
                self.__rio_record__(**self._field_values()), builtin_types=NATIVE_TYPES
            )
        except (NameError, TypeError, ValueError, RecursionError) as problem:
            raise TypeError(
                f"application error {type_hints.full_name(type(self))} cannot travel: {problem}"
            ) from problem

    def _check_fields(self) -> None:
        """Make sure that the caller will read the fields as they are.

        :raises Unreadable: the caller will not.
        """
        record = self._typed_record()(**self._field_values())
        round_trip_of(type(record)).encode(record)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in self._field_values().items())
        return f"{type(self).__name__}({fields})"

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
    """The fields of an error class by name, inherited ones first.

    :raises BadRegistration: exceptions need the name of a field.
    """
    fields = {
        name: field
        for base in reversed(cls.__mro__[1:])
        for name, field in base.__dict__.get("__rio_fields__", {}).items()
    }
    for name, annotation in type_hints.of_class(cls).items():
        if _is_class_variable(annotation):
            continue
        _check_field_name(cls, name)
        default = cls.__dict__.get(name, msgspec.NODEFAULT)
        if isinstance(default, _FIELD_SPECIFIER):
            delattr(cls, name)
        fields[name] = _Field(annotation, default, cls.__module__)
    return fields


def _is_class_variable(annotation: Any) -> bool:
    return (
        get_origin(annotation) is ClassVar
        or annotation is ClassVar
        or _CLASS_VARIABLE.match(str(annotation)) is not None
    )


def _check_field_name(cls: type[ApplicationError], name: str) -> None:
    if (
        (name != "message" and hasattr(ApplicationError, name))
        or name in ("detail", "args")
        or name.startswith("__")
    ):
        raise BadRegistration(
            f"application error {type_hints.full_name(cls)}: a field cannot be called {name!r},"
            " because exceptions need that name: choose another one"
        )


def _record_of(cls: type[ApplicationError], types: Mapping[str, Any]) -> type[msgspec.Struct]:
    """The struct that takes, checks and encodes the fields of an error class."""
    definition = [(name, types[name], field.default) for name, field in cls.__rio_fields__.items()]
    return msgspec.defstruct(cls.__name__, definition, module=cls.__module__)


def _check_fields(cls: type[ApplicationError], record: type[msgspec.Struct]) -> None:
    try:
        check_serialisable(record)
        defaults.check_parts(record)
    except TypeError as problem:
        raise BadRegistration(
            f"application error {type_hints.full_name(cls)} cannot travel: {problem}"
        ) from problem


def _register(cls: type[ApplicationError]) -> None:
    """Make an error class known by its name on the wire.

    A class that is made again, by a reloaded module or in a notebook, replaces its earlier self.

    :raises BadRegistration: another error class has the name.
    """
    known = _CLASS_OF_ERROR_NAME.get(cls.__rio_type_name__)
    if known is not None and not _is_same_definition(known, cls):
        del known
        gc.collect()  # a class refers to itself, so a dead one may still be in the table
        known = _CLASS_OF_ERROR_NAME.get(cls.__rio_type_name__)
        if known is not None:
            raise BadRegistration(
                f"application errors {type_hints.full_name(known)} and {type_hints.full_name(cls)}"
                f" have one type name, {cls.__rio_type_name__!r}: {remedy_for_clash(known, cls)}"
            )
    _CLASS_OF_ERROR_NAME[cls.__rio_type_name__] = cls


def _is_same_definition(one: type, other: type) -> bool:
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)


def _restore(cls: type[ApplicationError], values: Mapping[str, Any]) -> ApplicationError:
    """An error with these fields, made without the constructor of its class."""
    error = cls.__new__(cls)
    Exception.__init__(error, *values.values())
    error.__dict__.update(values)
    return error


_FIELD_SPECIFIER = type(msgspec.field())


class UnknownApplicationError(ApplicationError, type_name="rio.UnknownApplicationError"):
    """An application error that could not arrive as its own class.

    This program does not have the class, or the fields do not fit the class that it has.
    ``type_name`` is the name of the class on the wire, ``fields`` the fields as they arrived (a map
    from names to values of MessagePack types), and ``reason`` says what did not fit.
    A handler that lets it through sends its own caller the error as it was, under its own name.
    """

    type_name: str
    fields: Any
    reason: str = ""

    if not TYPE_CHECKING:

        @_ComputedAttribute
        def detail(self):
            """The form in which the error arrived: ``[type name, fields]``."""
            return [self.type_name, self.fields]

    def __str__(self) -> str:
        return f"application error {self.type_name!r} with {self.fields!r:.500}" + (
            f": {self.reason}" if self.reason else ""
        )


def decode_application_error(detail: Any) -> RioError:
    """The error that has arrived as ``detail``.

    It is an :class:`rio.UnknownApplicationError` if its class is not known here or does not fit,
    and an :class:`rio.errors.UnknownCode` if ``detail`` is not ``[type name, fields]``.
    """
    if not (isinstance(detail, (list, tuple)) and len(detail) == 2 and isinstance(detail[0], str)):
        return UnknownCode(
            f"an application error arrived that is not [type name, fields]: {detail!r:.200}",
            [APPLICATION_ERROR, detail],
        )
    name, fields = detail
    cls = _CLASS_OF_ERROR_NAME.get(name)
    if cls is None:
        return UnknownApplicationError(
            name, fields, "this program has no subclass of rio.ApplicationError of that name"
        )
    try:
        record = msgspec.convert(fields, cls._typed_record())
    except BaseException as problem:  # the class of a field may do anything
        return UnknownApplicationError(
            name, fields, f"the fields do not fit {type_hints.full_name(cls)}: {describe(problem)}"
        )
    return _restore(cls, {field: getattr(record, field) for field in cls.__rio_fields__})
