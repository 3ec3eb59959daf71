"""What a client with limited rights is told of an error."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable

from rio.errors import (
    CallTimeout,
    Deadlock,
    HandlerFailed,
    NotActivated,
    OutcomeUnknown,
    RioError,
    Superseded,
    Unavailable,
    UnknownMessage,
    UnknownType,
)
from rio.logs import Logger, SparingLog

logger = Logger("rio.security")

PLAIN = (CallTimeout, Deadlock, Superseded)
"""Errors whose text names nothing but the call."""


class Disclosure:
    """What the clients of one node with limited rights are told of errors. ``now``: seconds."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._log = SparingLog(logger, now)

    def conceal(self, error: BaseException, key_id: str) -> BaseException:
        """The same error without what it tells of the inside of the server: texts of exceptions,
        lines of source, paths, hosts, and names of other types. The log tells that, under the
        number that the client gets.

        ``key_id``: who gets it. The log has one line a second for each client and class of error,
        with their number, so that no client fills it. The others get no number.
        """
        match error:
            case UnknownType():
                return UnknownType("this node does not host the type")
            case UnknownMessage():
                return UnknownMessage("the type has no handler for this message")
            case HandlerFailed() | NotActivated():
                name = error.detail[0] if isinstance(error.detail, list) and error.detail else ""
                text = self._refer(error, key_id, f"it failed with {name}")
                return type(error)(text, [name, ""])
            case Unavailable() | OutcomeUnknown() if not isinstance(error, PLAIN):
                return type(error)(self._refer(error, key_id, "the server had a problem"), None)
            case RioError():
                return error
        return HandlerFailed(self._refer(error, key_id, "it failed"), [type(error).__name__, ""])

    def _refer(self, error: BaseException, key_id: str, what: str) -> str:
        reference, kind = secrets.token_hex(4), type(error).__name__
        text = "error %s of key %r: %s: %s"
        values = (reference, key_id, kind, error)
        if self._log.log(logging.INFO, f"{kind} {key_id}", text, *values):
            return f"{what}: the log of the server says more, as error {reference}"
        return f"{what}: the log of the server says more of an error like it"
