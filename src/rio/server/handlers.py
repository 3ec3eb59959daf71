"""From a handler to a row of the dispatch table.

The function that the core calls for a message is put together here, once, when the server is made.
Whatever wraps a handler is part of that function, so a handler that nothing wraps pays nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from rio._core.dispatch import Method, Turn, TypeTable, current
from rio.errors import BadRegistration, RioError
from rio.identity import type_name_of
from rio.objects.filters import Filter
from rio.objects.handler import Handler
from rio.objects.message import Message
from rio.objects.registry import RegisteredType
from rio.objects.system_messages import RESERVED_PREFIX, Subscribe
from rio.server.filtered import with_filters
from rio.server.notices import NOTICES
from rio.server.pubsub import Subscribers
from rio.server.quotas import Quotas
from rio.server.threads import Threads
from rio.transport.codec import ENCODER, decoder_of


def table_of(
    registered: RegisteredType,
    subscribers: Subscribers,
    quotas: Quotas,
    threads: Threads,
    filters: Sequence[Filter] = (),
) -> TypeTable:
    """The dispatch table of one type: its own handlers, and those that every object has.

    ``filters``: those of the server, which are around those of the type.

    :raises BadRegistration: the type or a message has a reserved name.
    """
    _check_names(registered)
    filters = (*filters, *registered.cls.__rio_filters__)
    own = [_row(handler, threads, filters) for handler in registered.handlers.values()]
    return TypeTable(registered.type_name, [*own, *_builtin_rows(subscribers, quotas)])


def _check_names(registered: RegisteredType) -> None:
    if registered.type_name.startswith(RESERVED_PREFIX):
        raise BadRegistration(
            f"{registered.cls.__name__}: type names that start with {RESERVED_PREFIX!r} are "
            "reserved"
        )
    for name in registered.handlers:
        if name.startswith(RESERVED_PREFIX):
            raise BadRegistration(
                f"{registered.cls.__name__} handles {name!r}: names that start with "
                f"{RESERVED_PREFIX!r} are reserved"
            )


def _row(handler: Handler[Any, Any, Any], threads: Threads, filters: Sequence[Filter]) -> Method:
    reply = handler.reply_type
    function = handler.function
    is_async = handler.is_async or handler.in_thread
    if handler.in_thread:
        function = threads.around(function)
    if filters:
        function = with_filters(handler, function, filters, is_async=is_async)
    return Method(
        handler,
        handler.message_name,
        function=function,
        decode=decoder_of(handler.message_type or Any),
        encode=ENCODER.encode,
        reply_class=reply if isinstance(reply, type) and _is_exact(reply) else None,
        is_async=is_async or bool(filters),
        takes_app_data=handler.takes_app_data,
        timeout=handler.timeout,
    )


def _is_exact(reply: type) -> bool:
    """Whether a value of exactly this class is surely of the declared type, as far as the encoder
    looks into it.
    """
    return reply in (type(None), bool, int, float, str, bytes) or issubclass(reply, msgspec.Struct)


# --- what every object answers --------------------------------------------------------------------


class BuiltinHandler:
    """A handler that every object has, in the place of a :class:`rio.objects.handler.Handler`."""

    def __init__(self, message_type: type[Message[Any]]) -> None:
        self.message_type = message_type
        self.reply_type = type(None)

    def __repr__(self) -> str:
        return f"<{type_name_of(self.message_type)}>"


class NotTaken(Exception):
    """A message is refused although its turn has come, and its object has nothing to do with it."""

    def __init__(self, answer: RioError) -> None:
        super().__init__(answer)
        self.answer = answer


def _builtin_rows(subscribers: Subscribers, quotas: Quotas) -> list[Method]:
    def subscribe(instance: Any, message: Subscribe) -> tuple[int, int]:
        turn = _current_turn()
        sink, activation = turn.caller.connection, turn.mailbox
        problem = quotas.why_not_subscribe(sink, subscribers.count_of(sink))
        if problem is not None:
            raise NotTaken(problem)
        counted = subscribers.subscribe(instance.object_id, sink, message.number)
        return activation.token, activation.published - counted

    return [
        _builtin_row(Subscribe, subscribe, tuple),
        *(_builtin_row(each, _ignore, type(None), takes_turn=False) for each in NOTICES),
    ]


def _builtin_row(
    message_type: type[Message[Any]],
    function: Callable[..., Any],
    reply_class: type,
    *,
    takes_turn: bool = True,
) -> Method:
    return Method(
        BuiltinHandler(message_type),
        type_name_of(message_type),
        function=function,
        decode=decoder_of(message_type),
        encode=ENCODER.encode,
        reply_class=reply_class,
        is_async=False,
        takes_app_data=False,
        timeout=None,
        takes_turn=takes_turn,
    )


# --- what only other members handle ---------------------------------------------------------------


class HandledElsewhere(Exception):
    """The turn of a message has come that this node does not know."""


class PassingHandler:
    """Stands for the handlers of messages that only other members know."""

    message_type = Any
    reply_type = type(None)


def passing_row(message_name: str) -> Method:
    """A row for a message that only other members know: its turn ends in
    :class:`HandledElsewhere`.
    """
    return Method(
        PassingHandler(),
        message_name,
        function=_pass_on,
        decode=_ignore,
        encode=ENCODER.encode,
        reply_class=type(None),
        is_async=False,
        takes_app_data=False,
        timeout=None,
    )


def _pass_on(instance: Any, message: None) -> None:
    raise HandledElsewhere


def _ignore(*_: Any) -> None: ...


def _current_turn() -> Turn:
    turn = current()
    assert turn is not None
    return turn
