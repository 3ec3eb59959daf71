"""``@rio.handler``: a method that answers one kind of message, and what its signature says, read
once.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Mapping
from typing import Any, Generic, NamedTuple, Protocol, Self, TypeVar, cast, get_origin, overload

from rio import type_hints
from rio.errors import BadIdentity, BadRegistration
from rio.identity import MAX_TYPE_NAME_BYTES, check_name, type_name_of
from rio.objects.app_data import AppData
from rio.objects.message import NO_REPLY_DECLARED, Message, reply_type_of
from rio.transport.codec import check_serialisable

S = TypeVar("S")
M = TypeVar("M", bound=Message[Any])
R = TypeVar("R")
S_co = TypeVar("S_co", covariant=True)
M_contra = TypeVar("M_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)


class HandlerSignature(NamedTuple):
    """What the annotations of a handler say."""

    message_name: str
    """The name of the message on the wire."""
    message_type: type[Message[Any]] | None
    """``None`` for a dynamic handler."""
    reply_type: Any
    """What the handler returns; ``NoneType`` for nothing, ``Any`` for a dynamic handler that does
    not say.
    """


class BoundHandler(Protocol[M_contra, R_co]):
    """A handler of one object: call it with the message, await the reply."""

    def __call__(self, message: M_contra, /, *, timeout: float | None = None) -> Awaitable[R_co]:
        """Answer ``message``; ``timeout`` is in seconds."""
        ...


class Handler(Generic[S_co, M_contra, R_co]):
    """A method of a service object that answers one kind of message. Made by :func:`handler`.

    Read on the class it is itself. Read on an instance, or on a reference to one, it is a callable
    that takes the message and returns an awaitable, whether the method is ``async def`` or plain
    ``def``; a plain method has run by then.
    """

    function: Callable[..., Any]
    """The method as written: call it as ``function(instance, message)``, with an :class:`AppData`
    behind if ``takes_app_data``.
    """
    name: str
    """Its attribute on the class."""
    timeout: float | None
    """Seconds it may take, if the decorator says so."""
    is_async: bool
    takes_app_data: bool

    def __init__(
        self,
        function: Callable[..., Any],
        message_name: str | None = None,
        timeout: float | None = None,
    ) -> None:
        self.function = function
        self.name = getattr(function, "__name__", "handler")
        self.timeout = timeout
        self.__doc__ = getattr(function, "__doc__", None)
        self._where = f"{_plain_name(function)} ({type_hints.line_of(function)})"
        self._owner: type | None = None
        self._dynamic_name = message_name
        self._signature: HandlerSignature | None = None
        self._check_kind()
        self._parameters = self._read_parameters()
        self.takes_app_data = len(self._parameters) == 3
        self.is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            inspect.unwrap(function)
        )

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        self._owner = owner
        self._where = f"{type_hints.short_name(owner)}.{name} ({type_hints.line_of(self.function)})"

    # --- what the annotations say -----------------------------------------------------------------

    @property
    def message_name(self) -> str:
        """The name of its message on the wire."""
        return self.resolve().message_name

    @property
    def message_type(self) -> type[Message[Any]] | None:
        """The class of its message; ``None`` for a dynamic handler, which gets plain values."""
        return self.resolve().message_type

    @property
    def reply_type(self) -> Any:
        """The type of its reply."""
        return self.resolve().reply_type

    def resolve(self) -> HandlerSignature:
        """What the annotations say, read now at the latest.

        :raises BadRegistration: they break a rule, or a name in them is not defined.
        """
        if self._signature is not None:
            return self._signature
        try:
            return self.try_resolve(() if self._owner is None else (vars(self._owner),))
        except NameError as problem:
            raise self._refusal(
                f"an annotation cannot be read: {problem}. Define it, or import it at run time "
                "(not only under TYPE_CHECKING), before "
                "the class is registered; what is defined inside a function must come before the "
                "class"
            ) from problem

    def try_resolve(self, local_names: Iterable[type_hints.Namespace]) -> HandlerSignature:
        """As :meth:`resolve`, but leaves it for later if a name is not defined yet.

        :raises NameError: a name is not defined yet.
        """
        if self._signature is None:
            local_names = tuple(local_names)
            self._signature = self._read_annotations(self._hints(local_names), local_names)
        return self._signature

    def _hints(self, local_names: Iterable[type_hints.Namespace]) -> dict[str, Any]:
        try:
            return type_hints.of_function(self.function, local_names)
        except (TypeError, SyntaxError) as problem:
            raise self._refusal(f"an annotation is no type: {problem}") from problem

    def _read_annotations(
        self, found: Mapping[str, Any], local_names: tuple[type_hints.Namespace, ...]
    ) -> HandlerSignature:
        if self.takes_app_data and found.get(self._parameters[2]) is not AppData:
            raise self._refusal(
                f"its third parameter is the application's data: write {self._parameters[2]}: "
                "rio.AppData, or remove it"
            )
        annotation = found.get(self._parameters[1], inspect.Parameter.empty)
        if self._dynamic_name is not None:
            return self._dynamic_signature(annotation, found)
        message_type = self._message_type(annotation)
        same_module = message_type.__module__ == self.function.__module__
        reply_type = self._reply_type(
            message_type, reply_type_of(message_type, local_names if same_module else ()), found
        )
        self._check_serialisable("message", message_type)
        self._check_serialisable("reply", reply_type)
        return HandlerSignature(type_name_of(message_type), message_type, reply_type)

    def _dynamic_signature(self, annotation: Any, found: Mapping[str, Any]) -> HandlerSignature:
        assert self._dynamic_name is not None
        if annotation not in (inspect.Parameter.empty, Any, object):
            raise self._refusal(
                f"a handler that names its message ({self._dynamic_name!r}) gets plain values, but "
                f"{self._parameters[1]!r} is annotated "
                f"{type_hints.short_name(annotation)}: annotate it Any, or use @rio.handler alone and a "
                "rio.Message class with type_name="
            )
        reply_type = found.get("return", Any)
        self._check_serialisable("reply", reply_type)
        return HandlerSignature(self._dynamic_name, None, reply_type)

    def _message_type(self, annotation: Any) -> type[Message[Any]]:
        name = self._parameters[1]
        if annotation is inspect.Parameter.empty:
            raise self._refusal(
                f"parameter {name!r} has no annotation: write {name}: YourMessage, a subclass of "
                "rio.Message"
            )
        if isinstance(get_origin(annotation), type) and issubclass(get_origin(annotation), Message):
            written = type_hints.short_name(annotation)
            raise self._refusal(
                f"parameter {name!r} is a {written}: name it by a subclass, class "
                f"YourMessage({written})"
            )
        if (
            not (isinstance(annotation, type) and issubclass(annotation, Message))
            or annotation is Message
        ):
            raise self._refusal(
                f"parameter {name!r} is annotated {type_hints.short_name(annotation)}, which is no "
                "subclass of rio.Message: make it one, or name the "
                f'message to get plain values, @rio.handler("the.Name")'
            )
        return annotation

    def _reply_type(
        self, message_type: type[Message[Any]], declared: Any, found: Mapping[str, Any]
    ) -> Any:
        if "return" not in found:
            wanted = "None" if declared is NO_REPLY_DECLARED else type_hints.short_name(declared)
            raise self._refusal(f"it has no return annotation: write -> {wanted}")
        returned = found["return"]
        if declared is not NO_REPLY_DECLARED and returned != declared:
            raise self._refusal(
                f"it returns {type_hints.short_name(returned)}, but {type_hints.short_name(message_type)} is "
                f"answered with {type_hints.short_name(declared)}: write "
                f"-> {type_hints.short_name(declared)}, or class "
                f"{type_hints.short_name(message_type)}(rio.Message[{type_hints.short_name(returned)}])"
            )
        return returned

    def _check_serialisable(self, what: str, wanted: Any) -> None:
        try:
            check_serialisable(wanted)
        except TypeError as problem:
            raise self._refusal(
                f"its {what} {type_hints.short_name(wanted)} cannot travel: {problem}"
            ) from problem

    # --- what the function is ---------------------------------------------------------------------

    def _check_kind(self) -> None:
        if not callable(self.function) or isinstance(
            self.function, (type, staticmethod, classmethod)
        ):
            raise BadRegistration(f"@rio.handler belongs on a method, not on {self.function!r}")
        function = inspect.unwrap(self.function)
        if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
            raise self._refusal(
                "it is a generator, and a message has one reply: return a list, or publish events "
                "with self.publish()"
            )
        if self.timeout is not None and not self.timeout > 0:
            raise self._refusal(
                f"timeout={self.timeout!r}: a timeout is a positive number of seconds"
            )
        if self._dynamic_name is not None:
            try:
                check_name("the message's name", self._dynamic_name, MAX_TYPE_NAME_BYTES)
            except BadIdentity as problem:
                raise self._refusal(str(problem)) from problem

    def _read_parameters(self) -> tuple[str, ...]:
        """The names of ``self``, the message, and the application's data if it takes it."""
        parameters = tuple(inspect.signature(self.function).parameters.values())
        positional = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
        if not positional or not 2 <= len(parameters) <= 3:
            shown = ", ".join(str(parameter) for parameter in parameters)
            raise self._refusal(
                f"it takes ({shown}): a handler takes (self, message) or (self, message, app: "
                "rio.AppData)"
            )
        return tuple(parameter.name for parameter in parameters)

    def _refusal(self, problem: str) -> BadRegistration:
        return BadRegistration(f"handler {self._where}: {problem}")

    # --- as a descriptor --------------------------------------------------------------------------

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


def _plain_name(function: Any) -> str:
    return str(getattr(function, "__qualname__", function)).rpartition("<locals>.")[2]


class _DirectCall:
    """A handler bound to an instance that is here: called as any method, with no message sent."""

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
            return _Completed(result)
        return result if timeout is None else _within(timeout, result)

    def __repr__(self) -> str:
        return f"<bound {self._handler!r} of {self._instance!r}>"


class _Completed:
    """An awaitable that has its value already."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __await__(self) -> Generator[Any, None, Any]:
        return self._value
        yield


async def _within(timeout: float, result: Awaitable[Any]) -> Any:
    async with asyncio.timeout(timeout):
        return await result


# --- the decorator --------------------------------------------------------------------------------


class HandlerDecorator(Protocol):
    """What ``@rio.handler(timeout=...)`` decorates with."""

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
    """What ``@rio.handler("the.Name")`` decorates with."""

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
def handler(*, timeout: float | None = None) -> HandlerDecorator: ...
@overload
def handler(message_name: str, /, *, timeout: float | None = None) -> DynamicHandlerDecorator: ...
def handler(function_or_name: Any = None, /, *, timeout: float | None = None) -> Any:
    """Mark a method as the one that answers a kind of message.

    The message is told by the annotation of the method's parameter, a subclass of
    :class:`rio.Message`, and the return annotation must be what that message declares::

        @rio.handler
        async def deposit(self, message: Deposit) -> Balance: ...

        @rio.handler(timeout=5.0)                       # seconds
        def peek(self, message: Peek, app: rio.AppData) -> Balance: ...

        @rio.handler("legacy.Set")                      # by name: value is of MessagePack types
        async def legacy_set(self, value: Any) -> Any: ...

    :raises BadRegistration: the method cannot be a handler; the text says what to change.
    """
    if function_or_name is None or isinstance(function_or_name, str):
        return lambda function: Handler(function, function_or_name, timeout)
    return Handler(function_or_name, None, timeout)


# --- the handlers of a class ----------------------------------------------------------------------


def collect_handlers(cls: type) -> dict[str, Handler[Any, Any, Any]]:
    """The handlers of a class by attribute name, inherited ones included.

    A subclass overrides a handler with another handler, or takes it away with ``name = None``.

    :raises BadRegistration: a handler is hidden by something that is not one.
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
                        f"{type_hints.full_name(base)}.{name} hides {hidden!r}: put @rio.handler "
                        f"on it too, or write {name} = None to take the "
                        f"handler away"
                    )
    return found


def by_message_name(
    cls: type, handlers: Iterable[Handler[Any, Any, Any]]
) -> dict[str, Handler[Any, Any, Any]]:
    """The handlers of a class by the name of their message; resolves them all.

    :raises BadRegistration: two of them take the same message.
    """
    found: dict[str, Handler[Any, Any, Any]] = {}
    for each in handlers:
        other = found.setdefault(each.message_name, each)
        if other is not each:
            raise BadRegistration(
                f"{type_hints.full_name(cls)} has two handlers for message {each.message_name!r}, "
                f"{other!r} and {each!r}: remove one of them, "
                f"or give one of two different messages another name with type_name="
            )
    return found
