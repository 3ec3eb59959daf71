"""``@rio.handler``: the methods that answer messages, and their signatures, which are read once."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Protocol,
    Self,
    TypeGuard,
    TypeVar,
    cast,
    get_origin,
    overload,
)

import msgspec

from rio import type_hints
from rio.errors import BadIdentity, BadRegistration
from rio.identity import MAX_TYPE_NAME_BYTES, check_name, type_name_of
from rio.objects import defaults
from rio.objects.app_data import AppData
from rio.objects.message import NO_REPLY_DECLARED, Message, reply_type_of
from rio.transport.codec import check_serialisable

S = TypeVar("S")
M = TypeVar("M", bound=Message[Any])
R = TypeVar("R")
S_co = TypeVar("S_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class HandlerSignature(msgspec.Struct, frozen=True):
    """The types in the annotations of a handler."""

    message_name: str
    """The name of the message on the wire."""
    message_type: type[Message[Any]] | None
    """The class of the message; ``None`` for a dynamic handler, which gets plain values."""
    reply_type: Any
    """The type of the reply: ``NoneType`` for none, ``Any`` for a dynamic handler without a return
    annotation.
    """


class BoundHandler(Protocol[M_contra, R_co]):
    """A handler of an object: call it with the message, and await the reply."""

    def __call__(self, message: M_contra, /, *, timeout: float | None = None) -> Awaitable[R_co]:
        """Answer ``message`` within ``timeout`` seconds.

        :raises TimeoutError: the handler did not answer in time.
        """
        ...


class Handler(Generic[S_co, M_contra, R_co]):
    """A method of a service object that answers one kind of message. :func:`handler` makes it.

    The attribute of an instance, or of a reference, is a :class:`BoundHandler`: it takes the
    message and returns an awaitable, whether the method is ``async def`` or plain ``def``. A plain
    method of an instance has run when the call returns. The attribute of the class is the
    :class:`Handler` itself.

    :raises BadRegistration: the function cannot be a handler; the text says what to change.
    """

    function: Callable[..., Any]
    """The method as it was written. It takes the instance, the message and, if ``takes_app_data``,
    an :class:`rio.AppData`.
    """
    name: str
    """The name of the attribute on the class."""
    timeout: float | None
    """Seconds that a turn of this handler may take; ``None`` for no limit of its own."""
    is_async: bool
    """Whether the method is ``async def``."""
    in_thread: bool
    """Whether the method runs in a thread of its own."""
    takes_app_data: bool
    """Whether the method has a third parameter."""

    def __init__(
        self,
        function: Callable[..., Any],
        message_name: str | None = None,
        timeout: float | None = None,
        in_thread: bool = False,
    ) -> None:
        self.function = function
        self.name = getattr(function, "__name__", "handler")
        self.timeout = timeout
        self.in_thread = in_thread
        self.__doc__ = getattr(function, "__doc__", None)
        self._where = f"{_name_of(function)} ({type_hints.line_of(function)})"
        self._owner: type | None = None
        self._dynamic_name = message_name
        self._signature: HandlerSignature | None = None
        self._check_function()
        self._parameters = self._read_parameters()
        self.takes_app_data = len(self._parameters) == 3
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            inspect.unwrap(function)
        )
        if in_thread and self.is_async:
            raise self._refusal("thread=True is for a plain def, and this is an async def")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self._owner = owner
        self._where = f"{type_hints.short_name(owner)}.{name} ({type_hints.line_of(self.function)})"

    @property
    def has_owner(self) -> bool:
        """Whether it is an attribute of a class."""
        return self._owner is not None

    # --- the annotations --------------------------------------------------------------------------

    @property
    def is_resolved(self) -> bool:
        """Whether its annotations were read already."""
        return self._signature is not None

    @property
    def message_name(self) -> str:
        """The name of the message on the wire."""
        return self.resolve().message_name

    @property
    def message_type(self) -> type[Message[Any]] | None:
        """The class of the message; ``None`` for a dynamic handler, which gets plain values."""
        return self.resolve().message_type

    @property
    def reply_type(self) -> Any:
        """The type of the reply."""
        return self.resolve().reply_type

    def resolve(self) -> HandlerSignature:
        """The types in the annotations. This reads them unless they were read before.

        :raises BadRegistration: they break a rule, or a name in them is not defined.
        """
        if self._signature is not None:
            return self._signature
        try:
            return self.try_resolve(() if self._owner is None else (vars(self._owner),))
        except NameError as problem:
            raise self._refusal(
                f"an annotation cannot be read: {problem}. Define the name, or import it at run"
                " time (not only under TYPE_CHECKING), before the class is registered. A name that"
                " is local to a function must be defined before the class"
            ) from problem

    def try_resolve(self, local_names: Iterable[type_hints.Namespace]) -> HandlerSignature:
        """The types in the annotations, if all names in them are defined already.

        :raises NameError: a name is not defined yet; :meth:`resolve` can read it later.
        :raises BadRegistration: the annotations break a rule.
        """
        if self._signature is None:
            local_names = tuple(local_names)
            self._signature = self._read_signature(self._read_hints(local_names), local_names)
        return self._signature

    def _read_hints(self, local_names: Iterable[type_hints.Namespace]) -> dict[str, Any]:
        try:
            return type_hints.of_function(self.function, local_names)
        except (TypeError, SyntaxError) as problem:
            raise self._refusal(f"an annotation is not a type: {problem}") from problem

    def _read_signature(
        self, hints: Mapping[str, Any], local_names: tuple[type_hints.Namespace, ...]
    ) -> HandlerSignature:
        if self.takes_app_data and hints.get(self._parameters[2]) is not AppData:
            name = self._parameters[2]
            raise self._refusal(
                "its third parameter is the application's data:"
                f" write {name}: rio.AppData, or remove it. A handler takes one message, so further"
                " values are fields of the message"
            )
        annotation = hints.get(self._parameters[1], inspect.Parameter.empty)
        if self._dynamic_name is not None:
            return self._read_dynamic_signature(self._dynamic_name, annotation, hints)
        message_type = self._read_message_type(annotation)
        is_local = message_type.__module__ == self.function.__module__
        declared = reply_type_of(message_type, local_names if is_local else ())
        reply_type = self._read_reply_type(message_type, declared, hints)
        self._check_serialisable("message", message_type)
        self._check_serialisable("reply", reply_type)
        return HandlerSignature(type_name_of(message_type), message_type, reply_type)

    def _read_dynamic_signature(
        self, message_name: str, annotation: Any, hints: Mapping[str, Any]
    ) -> HandlerSignature:
        if annotation not in (inspect.Parameter.empty, Any, object):
            raise self._refusal(
                f"a handler that names its message ({message_name!r}) gets plain values, but"
                f" {self._parameters[1]!r} is annotated {type_hints.short_name(annotation)}:"
                " annotate it Any, or use @rio.handler alone and a rio.Message class with"
                " type_name="
            )
        reply_type = hints.get("return", Any)
        self._check_serialisable("reply", reply_type)
        return HandlerSignature(message_name, None, reply_type)

    def _read_message_type(self, annotation: Any) -> type[Message[Any]]:
        name, written = self._parameters[1], type_hints.short_name(annotation)
        if annotation is inspect.Parameter.empty:
            raise self._refusal(
                f"parameter {name!r} has no annotation:"
                f" write {name}: YourMessage, a subclass of rio.Message"
            )
        if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), Message):
            raise self._refusal(
                f"parameter {name!r} is annotated {written}:"
                f" annotate it with a subclass, class YourMessage({written})"
            )
        if not _is_message_type(annotation):
            raise self._refusal(
                f"parameter {name!r} is annotated {written}: annotate it with a subclass of"
                ' rio.Message, or name the message to get plain values, @rio.handler("the.Name")'
            )
        return annotation

    def _read_reply_type(
        self, message_type: type[Message[Any]], declared: Any, hints: Mapping[str, Any]
    ) -> Any:
        wanted = "None" if declared is NO_REPLY_DECLARED else type_hints.short_name(declared)
        if "return" not in hints:
            raise self._refusal(f"it has no return annotation: write -> {wanted}")
        returned = hints["return"]
        if declared is not NO_REPLY_DECLARED and not type_hints.are_same(returned, declared):
            message, written = type_hints.short_name(message_type), type_hints.short_name(returned)
            raise self._refusal(
                f"it returns {written}, but {message} declares the reply {wanted}:"
                f" write -> {wanted}, or class {message}(rio.Message[{written}])"
            )
        return returned

    def _check_serialisable(self, what: str, wanted: Any) -> None:
        name = type_hints.short_name(wanted)
        try:
            check_serialisable(wanted)
        except TypeError as problem:
            raise self._refusal(f"its {what} {name} cannot travel: {problem}") from problem
        try:
            defaults.check_parts(wanted)
        except TypeError as problem:
            raise self._refusal(f"its {what} {name} cannot be used: {problem}") from problem

    # --- the function -----------------------------------------------------------------------------

    def _check_function(self) -> None:
        if not callable(self.function) or isinstance(
            self.function, (type, staticmethod, classmethod)
        ):
            raise BadRegistration(f"@rio.handler belongs on a method, not on {self.function!r}")
        function = inspect.unwrap(self.function)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise self._refusal(
                "it is a generator, and a message has one reply:"
                " return a list, or publish events with self.publish()"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise self._refusal(f"timeout={self.timeout!r}: give a positive number of seconds")
        if self._dynamic_name is not None:
            try:
                check_name("the message's name", self._dynamic_name, MAX_TYPE_NAME_BYTES)
            except BadIdentity as problem:
                raise self._refusal(str(problem)) from problem

    def _read_parameters(self) -> tuple[str, ...]:
        """The names of the parameters: of the object, the message, and the application's data."""
        parameters = tuple(inspect.signature(self.function).parameters.values())
        positional = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        if not positional or not 2 <= len(parameters) <= 3:
            shown = ", ".join(str(parameter) for parameter in parameters)
            raise self._refusal(
                f"it takes ({shown}):"
                " a handler takes (self, message) or (self, message, app: rio.AppData)"
            )
        return tuple(parameter.name for parameter in parameters)

    def _refusal(self, problem: str) -> BadRegistration:
        return BadRegistration(f"handler {self._where}: {problem}")

    # --- the attribute of a class, and of an instance ---------------------------------------------

    @overload
    def __get__(self, instance: None, owner: type[Any], /) -> Self: ...
    @overload
    def __get__(
        self, instance: object, owner: type[Any] | None = None, /
    ) -> BoundHandler[M_contra, R_co]: ...
    def __get__(
        self, instance: object | None, owner: type[Any] | None = None, /
    ) -> Self | BoundHandler[M_contra, R_co]:
        return (
            self
            if instance is None
            else cast("BoundHandler[M_contra, R_co]", _DirectCall(self, instance))
        )

    def __repr__(self) -> str:
        return f"<handler {self._where}>"


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", function)).rpartition("<locals>.")[2]


def _is_message_type(annotation: Any) -> TypeGuard[type[Message[Any]]]:
    is_message = isinstance(annotation, type) and issubclass(annotation, Message)
    return is_message and annotation is not Message


class _DirectCall:
    """A handler of an instance: called like any other method, without sending a message."""

    __slots__ = ("_handler", "_instance")

    def __init__(self, handler: Handler[Any, Any, Any], instance: Any) -> None:
        self._handler = handler
        self._instance = instance

    def __call__(self, message: Any, /, *, timeout: float | None = None) -> Awaitable[Any]:
        handler = self._handler
        arguments = (
            (self._instance, message, self._instance.app_data)
            if handler.takes_app_data
            else (self._instance, message)
        )
        result: Any = handler.function(*arguments)
        if not handler.is_async:
            return _ReadyReply(result)
        return result if timeout is None else _await_within(timeout, result)

    def __repr__(self) -> str:
        return f"<bound {self._handler!r} of {self._instance!r}>"


class _ReadyReply:
    """An awaitable that has its value already."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, Any]:
        return self._value
        yield


async def _await_within(timeout: float, result: Awaitable[Any]) -> Any:
    async with asyncio.timeout(timeout):
        return await result


# --- the decorator --------------------------------------------------------------------------------


if TYPE_CHECKING:

    class HandlerDecorator(Protocol):
        """The decorator that ``@rio.handler(timeout=...)`` makes."""

        @overload
        def __call__(
            self, function: Callable[[S, M], Coroutine[Any, Any, R]], /
        ) -> Handler[S, M, R]: ...
        @overload
        def __call__(
            self, function: Callable[[S, M, AppData], Coroutine[Any, Any, R]], /
        ) -> Handler[S, M, R]: ...
        @overload
        def __call__(self, function: Callable[[S, M], R], /) -> Handler[S, M, R]: ...
        @overload
        def __call__(self, function: Callable[[S, M, AppData], R], /) -> Handler[S, M, R]: ...

    class DynamicHandlerDecorator(Protocol):
        """The decorator that ``@rio.handler("the.Name")`` makes."""

        @overload
        def __call__(
            self, function: Callable[[S, Any], Coroutine[Any, Any, R]], /
        ) -> Handler[S, Any, R]: ...
        @overload
        def __call__(
            self, function: Callable[[S, Any, AppData], Coroutine[Any, Any, R]], /
        ) -> Handler[S, Any, R]: ...
        @overload
        def __call__(self, function: Callable[[S, Any], R], /) -> Handler[S, Any, R]: ...
        @overload
        def __call__(self, function: Callable[[S, Any, AppData], R], /) -> Handler[S, Any, R]: ...


@overload
def handler(function: Callable[[S, M], Coroutine[Any, Any, R]], /) -> Handler[S, M, R]: ...
@overload
def handler(function: Callable[[S, M, AppData], Coroutine[Any, Any, R]], /) -> Handler[S, M, R]: ...
@overload
def handler(function: Callable[[S, M], R], /) -> Handler[S, M, R]: ...
@overload
def handler(function: Callable[[S, M, AppData], R], /) -> Handler[S, M, R]: ...
@overload
def handler(*, timeout: float | None = None, thread: bool = False) -> HandlerDecorator: ...
@overload
def handler(
    message_name: str, /, *, timeout: float | None = None, thread: bool = False
) -> DynamicHandlerDecorator: ...
def handler(
    function_or_name: Any = None, /, *, timeout: float | None = None, thread: bool = False
) -> Any:
    """Mark a method of a service object as the handler of a message.

    The annotation of the method's parameter says which message: a subclass of :class:`rio.Message`.
    The return annotation must be the reply that this message declares::

        @rio.handler
        async def deposit(self, message: Deposit) -> Balance: ...

        @rio.handler(timeout=5.0)
        def peek(self, message: Peek, app: rio.AppData) -> Balance: ...

        @rio.handler("legacy.Set")
        async def legacy_set(self, value: Any) -> Any: ...

    The method is ``async def``, or plain ``def`` if it never waits. A parameter after the message
    gets the :class:`rio.AppData` of the server. An object runs one handler at a time.

    ``timeout`` is the time in seconds that one turn may take. After that ``rio`` cancels an
    ``async def``, and the caller gets :class:`rio.errors.CallTimeout`. The caller's own deadline
    holds as well.

    ``thread=True`` runs a plain ``def`` that blocks, such as a computation or a driver that is not
    asynchronous, in a thread of its own. The event loop is not blocked meanwhile, and the object
    takes no other turn. There the object is used by :func:`rio.from_thread`. If the thread still
    runs at the end of the turn, the object is dropped from memory, and the thread can do nothing
    with it any more.

    A name in place of an annotation makes a dynamic handler: it answers the message of that name,
    1 to 128 bytes of UTF-8, and gets plain values of MessagePack types.

    A handler raises a subclass of :class:`rio.ApplicationError` for its callers to catch. After any
    other exception the caller gets :class:`rio.errors.HandlerFailed`, and the object is dropped
    from memory.

    :raises BadRegistration: (when the class is made or registered) the method breaks a rule; the
        text has its line and what to change.
    """
    if function_or_name is None or isinstance(function_or_name, str):
        return lambda function: Handler(function, function_or_name, timeout, thread)
    return Handler(function_or_name, None, timeout)


# --- the handlers of a class ----------------------------------------------------------------------


def collect_handlers(cls: type) -> dict[str, Handler[Any, Any, Any]]:
    """The handlers of a class by attribute name, inherited ones included.

    A subclass overrides a handler with another handler, or removes it with ``name = None``.

    :raises BadRegistration: an attribute that is not a handler hides a handler.
    """
    found: dict[str, Handler[Any, Any, Any]] = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if isinstance(value, Handler):
                found[name] = value
            elif name in found:
                hidden = found.pop(name)
                if value is not None:
                    raise BadRegistration(
                        f"{type_hints.full_name(base)}.{name} hides {hidden!r}: put @rio.handler"
                        f" on it too, or write {name} = None to remove the handler"
                    )
    return found


def index_by_message_name(
    cls: type, handlers: Iterable[Handler[Any, Any, Any]]
) -> dict[str, Handler[Any, Any, Any]]:
    """These handlers of a class by the name of their message. This reads their annotations.

    :raises BadRegistration: two of them answer the same message, or one of them breaks a rule.
    """
    found: dict[str, Handler[Any, Any, Any]] = {}
    for each in handlers:
        other = found.setdefault(each.message_name, each)
        if other is not each:
            raise BadRegistration(
                f"{type_hints.full_name(cls)} has two handlers for message {each.message_name!r},"
                f" {other!r} and {each!r}: remove one of them (an inherited one with name = None),"
                " or, if their messages differ, give one message another name with type_name="
            )
    return found


def callable_handlers(cls: Any) -> dict[str, Handler[Any, Any, Any]]:
    """The handlers that callers of objects of this class know, by name: its own, and those that a
    registry has added.
    """
    return {**cls.__rio_handlers__, **cls.__dict__.get("__rio_added_handlers__", {})}
