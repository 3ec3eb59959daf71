"""The hooks of an object's life: which of them a class overrides, and their parameters."""

from __future__ import annotations

import inspect
import math
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import msgspec
from msgspec.structs import replace

from rio import type_hints
from rio.errors import BadRegistration
from rio.objects.app_data import AppData

F = TypeVar("F", bound=Callable[..., Awaitable[None]])

LeavingReason = Literal["asked", "idle", "memory", "drain", "moved", "upgrade", "deleted"]
"""Why an object leaves the memory of its server."""

SHORTEST_IDLE = 1.0
"""Seconds of ``idle_after``, at least."""

HOOK_NAMES = ("before_load", "load", "after_load", "before_shutdown", "shutdown")


class LifecycleLimits(msgspec.Struct, frozen=True):
    """What a class says about the lifecycle of its objects; ``UNSET`` leaves it to the server."""

    idle_after: float | msgspec.UnsetType | None = msgspec.UNSET
    """Seconds without a use after which an object leaves; ``None``: it stays."""
    activate_timeout: float | msgspec.UnsetType = msgspec.UNSET
    deactivate_timeout: float | msgspec.UnsetType = msgspec.UNSET

    def overridden_by(self, cls: type, **limits: Any) -> LifecycleLimits:
        """These limits, but for those that the class statement of ``cls`` sets.

        :raises BadRegistration: one of them is out of its range.
        """
        given = {name: value for name, value in limits.items() if value is not msgspec.UNSET}
        for name, value in given.items():
            problem = problem_of_limit(name, value)
            if problem:
                raise BadRegistration(f"{type_hints.full_name(cls)}: {problem}")
        return replace(self, **given) if given else self


def problem_of_limit(name: str, value: Any) -> str:
    """What is wrong with a limit; empty if nothing is."""
    is_number = isinstance(value, (int, float)) and 0 < value < math.inf
    if name == "idle_after":
        if value is None or (is_number and value >= SHORTEST_IDLE):
            return ""
        return f"idle_after must be None or at least {SHORTEST_IDLE:g} second, got {value!r}"
    return "" if is_number else f"{name} must be a finite number of seconds above 0, got {value!r}"


class LifecycleHook(msgspec.Struct, frozen=True):
    """A hook that the runtime runs for the objects of a class."""

    name: str
    function: Callable[..., Awaitable[None]]
    takes_app_data: bool
    """Whether the hook has a parameter besides ``self``."""

    def run(self, instance: Any, app_data: AppData) -> Awaitable[None]:
        """Call the hook on ``instance``."""
        return self.function(instance, app_data) if self.takes_app_data else self.function(instance)


class LifecycleHooks(msgspec.Struct, frozen=True):
    """The hooks that a class overrides; ``None`` for each that it does not."""

    before_load: LifecycleHook | None
    load: LifecycleHook | None
    """``None``: the runtime itself loads all managed states."""
    after_load: LifecycleHook | None
    before_shutdown: LifecycleHook | None
    shutdown: LifecycleHook | None


def default_hook(function: F) -> F:
    """Mark a hook of the base class. The runtime does not need to run it."""
    function.__dict__["__rio_default_hook__"] = True
    return function


class ShutdownHook:
    """An overridden ``shutdown``, which has two meanings.

    The runtime calls it to run the hook while it deactivates the object. At any other time a call
    asks for the deactivation.
    """

    def __init__(self, function: Callable[..., Awaitable[None]]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self.function
        context = instance._context()
        return self.function.__get__(instance, owner) if context.shutting_down else context.shutdown


def check_task_failed(cls: type) -> None:
    """:raises BadRegistration: the class defines a ``task_failed`` that somebody would await."""
    function = cls.__dict__.get("task_failed")
    if inspect.iscoroutinefunction(function):
        where = _where(cls, "task_failed", function)
        raise BadRegistration(f"{where} is not awaited: write def task_failed(self, task, error)")


def check_hooks(cls: type) -> None:
    """Check the hooks in the body of a class, and let ``shutdown`` have both of its meanings.

    :raises BadRegistration: a hook is not a coroutine function, or takes other parameters.
    """
    for name in HOOK_NAMES:
        function = cls.__dict__.get(name)
        if function is None:
            continue
        where = _where(cls, name, function)
        if not inspect.iscoroutinefunction(function):
            raise BadRegistration(f"lifecycle hook {where}: write async def {name}(self)")
        _takes_app_data(function, where)
        if name == "shutdown":
            type.__setattr__(cls, name, ShutdownHook(function))


def hooks_of(cls: type) -> LifecycleHooks:
    """The hooks to run for objects of ``cls``.

    :raises BadRegistration: the second parameter of a hook is not the application's data.
    """
    return LifecycleHooks(*(_read_hook(cls, name) for name in HOOK_NAMES))


def _read_hook(cls: type, name: str) -> LifecycleHook | None:
    function = getattr(cls, name)
    if hasattr(function, "__rio_default_hook__"):
        return None
    where = _where(cls, name, function)
    takes_app_data = _takes_app_data(function, where)
    if takes_app_data:
        _check_app_data(function, where)
    return LifecycleHook(name, function, takes_app_data)


def _takes_app_data(function: Callable[..., Any], where: str) -> bool:
    """Whether a hook takes ``(self, app)``.

    :raises BadRegistration: it takes neither that nor ``(self)``.
    """
    parameters = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(parameters) > 2 or any(p.kind is p.KEYWORD_ONLY for p in parameters):
        shown = ", ".join(str(parameter) for parameter in parameters)
        raise BadRegistration(
            f"lifecycle hook {where} takes ({shown}):"
            " a hook takes (self) or (self, app: rio.AppData)"
        )
    return len(parameters) == 2


def _check_app_data(function: Callable[..., Any], where: str) -> None:
    parameter = tuple(inspect.signature(function).parameters.values())[1]
    try:
        annotation = type_hints.of_function(function).get(parameter.name)
    except (NameError, TypeError) as problem:
        raise BadRegistration(
            f"lifecycle hook {where}: an annotation cannot be read: {problem}"
        ) from problem
    if annotation is not AppData:
        raise BadRegistration(
            f"lifecycle hook {where}: its parameter is the application's data:"
            f" write {parameter.name}: rio.AppData"
        )


def _where(cls: type, name: str, function: Any) -> str:
    """The name of a hook and its line, for an error text."""
    line = type_hints.line_of(function) if callable(function) else ""
    return f"{type_hints.full_name(cls)}.{name} ({line})"
