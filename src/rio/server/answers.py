"""What is answered to a call that does not end in the ordinary way.

The core writes the replies that are of exactly the declared class. For everything else it asks one
of these functions.
"""

from __future__ import annotations

from typing import Any

from rio._core.dispatch import Turn
from rio.errors import (
    BadMessage,
    BadReply,
    Deactivated,
    Deadlock,
    HandlerFailed,
    NotActivated,
    OutcomeUnknown,
    RioError,
    StateTooNew,
    StorageUnavailable,
    Superseded,
    Unavailable,
)
from rio.identity import ObjectId
from rio.objects.application_error import ApplicationError
from rio.transport import codec
from rio.transport.protocol import text_of, traceback_of


def encode_reply(turn: Turn, value: Any) -> bytes:
    """Encode a reply whose class is not exactly the declared one.

    :raises BadReply: it is not of the declared type.
    """
    declared = turn.method.handler.reply_type
    if declared is Any:
        return codec.encode_dynamic(value, failure=BadReply)
    payload = codec.encode(value)
    try:
        codec.decode(payload, declared, failure=BadReply)
    except BadReply as error:
        raise BadReply(
            f"the handler {turn.method.handler!r} returned a {type(value).__name__}, which is not "
            f"what it declares: {error}"
        ) from error
    return payload


def undecodable(turn: Turn, error: BaseException) -> RioError:
    """The answer to a payload that does not decode into the handler's message."""
    if isinstance(error, BadMessage):  # it is about what came with the message
        return error
    return codec.decoding_error(error, turn.method.handler.message_type or Any)


def unencodable(value: Any, error: BaseException) -> RioError:
    """The answer if a reply cannot be encoded."""
    return error if isinstance(error, RioError) else codec.encoding_error(error, value)


def to_failure(
    turn: Turn, error: BaseException, *, own_failure: BaseException | None = None
) -> RioError:
    """The answer to an exception of a handler. Application errors are answered as they are.

    ``own_failure``: what the last save of the object has raised. The same errors of other objects,
    which the handler has called, say nothing about this one.
    """
    cause = _single(error)
    if isinstance(cause, (ApplicationError, Deadlock)):
        return cause
    if cause is own_failure and isinstance(cause, Superseded):
        return cause
    if own_failure is not None and (cause is own_failure or isinstance(cause, Deactivated)):
        return OutcomeUnknown(
            f"{turn.type_name}/{turn.id} may not have saved its state: {text_of(cause)}"
        )
    if isinstance(error, HandlerFailed) and isinstance(
        error.__cause__, (SystemExit, KeyboardInterrupt)
    ):
        return error
    return HandlerFailed(
        f"{turn.type_name}/{turn.id} failed in {turn.message_name}: {text_of(error)}",
        [type(error).__name__, traceback_of(error)],
    )


def to_failed_filter(turn: Turn, error: BaseException) -> RioError:
    """The answer to an exception of a filter that has not let the call through."""
    return HandlerFailed(
        f"a filter before {turn.message_name} of {turn.type_name}/{turn.id} failed, and the handler"
        f" did not run: {text_of(error)}",
        [type(error).__name__, traceback_of(error)],
    )


def _single(error: BaseException) -> BaseException:
    """The one exception that a group holds, at any depth; else the error itself."""
    found = error
    while isinstance(found, BaseExceptionGroup) and len(found.exceptions) == 1:
        found = found.exceptions[0]
    return error if isinstance(found, BaseExceptionGroup) else found


def to_failed_load(object_id: ObjectId, error: Exception, *, superseded: bool) -> RioError:
    """The answer to the calls of an object that an exception kept from coming to life.

    ``superseded``: another node took the object over meanwhile.
    """
    if superseded:
        return Unavailable(
            f"{object_id} was taken over by another node while it was loaded: {text_of(error)}"
        )
    if isinstance(error, StateTooNew):
        return StateTooNew(f"{object_id} could not be loaded: {error.message}", error.detail)
    if isinstance(error, (StorageUnavailable, Deactivated)):
        return Unavailable(f"{object_id} could not be loaded: {text_of(error)}")
    return NotActivated(
        f"{object_id} could not be activated: {text_of(error)}",
        [type(error).__name__, traceback_of(error)],
    )
