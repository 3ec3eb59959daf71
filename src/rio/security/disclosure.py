"""What a client with limited rights is told of an error."""

from __future__ import annotations

import secrets

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
from rio.logs import Logger

logger = Logger("rio.security")

PLAIN = (CallTimeout, Deadlock, Superseded)
"""Errors whose text names nothing but the call."""


def conceal(error: BaseException) -> BaseException:
    """The same error without what it tells of the inside of the server: texts of exceptions, lines
    of source, paths, hosts, and names of other types. The log tells that, under the number that
    the client gets.
    """
    match error:
        case UnknownType():
            return UnknownType("this node does not host the type")
        case UnknownMessage():
            return UnknownMessage("the type has no handler for this message")
        case HandlerFailed() | NotActivated():
            name = error.detail[0] if isinstance(error.detail, list) and error.detail else ""
            return type(error)(_refer(error, f"it failed with {name}"), [name, ""])
        case Unavailable() | OutcomeUnknown() if not isinstance(error, PLAIN):
            return type(error)(_refer(error, "the server had a problem"), None)
        case RioError():
            return error
    return HandlerFailed(_refer(error, "it failed"), [type(error).__name__, ""])


def _refer(error: BaseException, what: str) -> str:
    reference = secrets.token_hex(4)
    logger.info("error %s: %s: %s", reference, type(error).__name__, error)
    return f"{what}: the log of the server says more, as error {reference}"
