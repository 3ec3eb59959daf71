"""A handler with the filters around it, as one function for the dispatch table."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from rio import type_hints
from rio._core.dispatch import Turn, current
from rio.identity import ObjectId
from rio.objects.application_error import ApplicationError
from rio.objects.filters import Call, Filter, compose
from rio.objects.handler import Handler
from rio.objects.service_object import ServiceObject
from rio.transport.call_context import read_context


class FilterFailed(Exception):
    """A filter has raised ``cause`` before it let the call through: no handler has run."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(cause)
        self.cause = cause


class HandlerCall(Call):
    """A call that has its turn."""

    __slots__ = ("_instance", "_turn", "arguments", "has_begun")

    def __init__(self, instance: ServiceObject, message: Any, arguments: tuple[Any, ...]) -> None:
        super().__init__(instance.object_id, message)
        turn = current()
        assert turn is not None
        self._turn: Turn = turn
        self._instance = instance
        self.arguments = arguments
        """What the handler takes after the message."""
        self.has_begun = False
        """Whether the handler was called."""

    @property
    def message_name(self) -> str:
        return self._turn.message_name

    @property
    def time_left(self) -> float:
        return self._turn.deadline - self._turn.dispatcher.now()

    @property
    def instance(self) -> ServiceObject:
        return self._instance

    @property
    def caller(self) -> ObjectId | None:
        chain = read_context(self._turn.context).chain
        return ObjectId(chain[-1].type_name, chain[-1].id) if chain else None


def with_filters(
    handler: Handler[Any, Any, Any],
    function: Callable[..., Any],
    filters: Sequence[Filter],
    *,
    is_async: bool,
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """What the core calls in the place of ``function``, which runs the handler, with the same
    arguments.
    """
    expected = handler.message_type

    async def handle(call: HandlerCall) -> Any:
        if expected is not None and type(call.message) is not expected:
            raise TypeError(
                f"{handler!r} takes a {type_hints.short_name(expected)}, and a filter has put"
                f" {call.message!r:.200} in its place"
            )
        call.has_begun = True
        result = function(call.instance, call.message, *call.arguments)
        return await result if is_async else result

    way = compose(filters, handle)

    async def run(instance: ServiceObject, message: Any, *arguments: Any) -> Any:
        call = HandlerCall(instance, message, arguments)
        try:
            return await way(call)
        except ApplicationError:
            raise
        except Exception as error:
            if call.has_begun:
                raise
            raise FilterFailed(error) from error

    return run
