"""Filters: what runs around a handler on its server, or around a call in its client."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

from rio import type_hints
from rio.errors import RioError
from rio.identity import ObjectId


class Call(ABC):
    """A call on its way through filters."""

    __slots__ = ("message", "object_id")

    object_id: ObjectId
    """The object that is called."""
    message: Any
    """What it is sent. A filter may put another message of the same class in its place."""

    def __init__(self, object_id: ObjectId, message: Any) -> None:
        self.object_id = object_id
        self.message = message

    @property
    @abstractmethod
    def message_name(self) -> str:
        """The name of the message on the wire."""

    @property
    @abstractmethod
    def time_left(self) -> float:
        """Seconds until the deadline of the call; below 0 when it has passed."""

    @property
    @abstractmethod
    def instance(self) -> Any:
        """The object itself, a :class:`rio.ServiceObject`, on its server. ``None`` in a client."""

    @property
    @abstractmethod
    def caller(self) -> ObjectId | None:
        """On a server, the object that waits for the answer. ``None``: it is no object that waits,
        or this is a client.
        """

    def __repr__(self) -> str:
        return f"<call of {self.object_id}.{self.message_name}>"


Proceed: TypeAlias = Callable[[], Awaitable[Any]]
"""Goes on with the call: the next filter, then the handler or the network. Returns the reply, and
raises what that raises. Each call of it goes the whole way once more.
"""

Filter: TypeAlias = Callable[[Call, Proceed], Awaitable[Any]]
"""``async def audit(call: rio.Call, proceed: rio.Proceed) -> Any``: returns the reply."""

Step: TypeAlias = Callable[[Any], Awaitable[Any]]


def compose(filters: Iterable[Filter], last: Step) -> Step:
    """One function of a call: the filters, the first of them outermost, around ``last``."""
    for filter in reversed(tuple(filters)):
        last = _around(filter, last)
    return last


def _around(filter: Filter, inner: Step) -> Step:
    def step(call: Call) -> Awaitable[Any]:
        return filter(call, partial(inner, call))

    return step


def check_filters(
    where: str, filters: Iterable[Filter], refusal: type[RioError]
) -> tuple[Filter, ...]:
    """The filters as a tuple.

    :raises RioError: one of them is none; the error is a ``refusal``.
    """
    if not isinstance(filters, Iterable) or isinstance(filters, str):
        raise refusal(f"{where}: filters= takes a list of filters, got {filters!r:.200}")
    checked = tuple(filters)
    for filter in checked:
        if problem := _problem_of(filter):
            raise refusal(
                f"{where}: the filter {_name_of(filter)} {problem}; write"
                " async def name(call: rio.Call, proceed: rio.Proceed) -> Any"
            )
    return checked


def _problem_of(filter: object) -> str | None:
    if not callable(filter) or isinstance(filter, type):
        return "cannot be called with a call"
    if not any(map(inspect.iscoroutinefunction, (filter, filter.__call__))):
        return "is no async function"
    try:
        inspect.signature(filter).bind(None, None)
    except TypeError as problem:
        return f"does not take a call and a function ({problem})"
    return None


def _name_of(filter: Any) -> str:
    name = getattr(filter, "__qualname__", None)
    return f"{filter!r:.100}" if name is None else f"{name} ({type_hints.line_of(filter)})"
