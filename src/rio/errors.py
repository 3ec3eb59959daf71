"""Everything that ``rio`` raises, as one tree under :class:`RioError`.

The first question after a failed call is "may it have run?", so the tree is cut there:
:class:`NotExecuted` (it did not, calling again is safe), :class:`OutcomeUnknown` (it may have), and
:class:`CallRefused` or :class:`CallFailed` (it was answered, calling again changes nothing).

A class that can arrive from a server has a ``code``, its name on the wire; a code maps to one
class, and a code that this version does not know arrives as :class:`UnknownError`, which keeps it.
"""

from __future__ import annotations

from typing import Any, ClassVar

APPLICATION_ERROR = "application_error"
"""The code of every application error: the wire and the retry rules know it without its class."""


class RioError(Exception):
    """The root of all errors of ``rio``."""

    code: ClassVar[str] = ""

    def __init__(self, message: str = "", detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        """What was wrong and what to do, for a person."""
        self.detail = detail
        """What a program can use: a value of MessagePack types whose shape belongs to the class."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        code = cls.__dict__.get("code", "")
        if code:
            known = _CLASS_OF_CODE.setdefault(code, cls)
            if known is not cls:
                raise TypeError(
                    f"error code {code!r} of {cls.__name__} already belongs to {known.__name__}"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.detail)


_CLASS_OF_CODE: dict[str, type[RioError]] = {}


# --- said while a program is put together ---------------------------------------------------------


class ConfigurationError(RioError, ValueError):
    """A setting, an address or a storage URL that cannot work."""


class BadAddress(ConfigurationError):
    """A text that is not ``HOST:PORT``."""


class BadIdentity(RioError, ValueError):
    """A type name or an object id that does not fit: empty, too long, or not text."""

    code = "bad_identity"


class RegistrationError(RioError, TypeError):
    """A class or a handler that cannot be registered; the text names the class and the line to
    change.
    """


class NotAttached(RioError, RuntimeError):
    """A service object was used that no server has activated: it can handle messages in a test, but
    not send, save or publish.
    """


class BindError(RioError, OSError):
    """The server could not listen on its address."""


# --- a call that was not executed: calling again is safe ------------------------------------------


class NotExecuted(RioError):
    """The call did not run anywhere. The client has already tried again where that could help."""

    code = "not_executed"


class NoServersAvailable(NotExecuted):
    """Membership names no active server, or none could be connected to.

    With a reachable but busy server it is :class:`Overloaded`.
    """


class Redirected(NotExecuted):
    """The object lives on another node. ``detail``: ``[address, generation]``.

    Followed by the client; raised after too many hops.
    """

    code = "redirect"


class Draining(NotExecuted):
    """The node is about to stop and activates nothing new."""

    code = "draining"


class Unavailable(NotExecuted):
    """The node cannot admit the call now: it lost touch with its storage, or is being stopped."""

    code = "unavailable"


class Overloaded(NotExecuted):
    """A limit was reached: calls in flight, or calls waiting for one object."""

    code = "overloaded"


class NotActivated(NotExecuted):
    """The object could not be brought to life: claim, load, or a lifecycle hook failed.

    The cause is in the text.
    """

    code = "not_activated"


class Expired(NotExecuted):
    """The deadline passed before the call was started.

    If it may have been started, it is :class:`CallTimeout`.
    """

    code = "expired"


class UnknownType(NotExecuted):
    """The node does not host objects of this type.

    The client asks the other nodes before it raises this.
    """

    code = "unknown_type"


# --- a call that may have run ---------------------------------------------------------------------


class OutcomeUnknown(RioError):
    """The call may or may not have run, so it was not sent again.

    To have it repeated, declare its message idempotent or readonly.
    """

    code = "outcome_unknown"


class ConnectionLost(OutcomeUnknown):
    """The connection broke after the call was written and before it was answered."""


class CallTimeout(OutcomeUnknown, TimeoutError):
    """The deadline passed after the call was written."""

    code = "timeout"


class Superseded(OutcomeUnknown):
    """Another activation of the object has taken over: this one may no longer commit state and is
    dropped from memory.
    """

    code = "superseded"


# --- a call that was answered: calling again changes nothing --------------------------------------


class CallRefused(RioError):
    """The server looked at the call and would not run it."""


class UnknownMessage(CallRefused):
    """The object's type has no handler for this message."""

    code = "unknown_message"


class BadMessage(CallRefused):
    """The payload does not decode into the message's type; the text names the field."""

    code = "bad_message"


class DeadlockError(CallRefused):
    """The call would wait for an object that is itself waiting for this call.

    ``detail``: the cycle, a list of ``"Type/id.Message"``.
    """

    code = "deadlock"


class FrameTooLarge(CallRefused):
    """A message or a reply is larger than the frame limit of either side."""

    code = "frame_too_large"


class CallFailed(RioError):
    """The handler ran and did not end well."""


class HandlerError(CallFailed):
    """The handler raised something that is no :class:`rio.ApplicationError`: the object was dropped
    from memory, its saved state stands.

    ``detail``: ``[exception class name, remote traceback]``.
    """

    code = "handler_error"

    def __str__(self) -> str:
        remote = (
            self.detail[1]
            if isinstance(self.detail, (list, tuple)) and len(self.detail) > 1 and self.detail[1]
            else ""
        )
        return f"{self.message}\n\nremote traceback:\n{remote}" if remote else self.message


class BadReply(CallFailed):
    """The handler returned a value that is not of its declared type, or the answer could not be
    decoded into the expected one.
    """

    code = "bad_reply"


class UnknownError(CallFailed):
    """An error whose code or class this program does not know.

    ``detail``: ``[code, detail]`` as received.
    """


# --- the wire -------------------------------------------------------------------------------------


class ProtocolError(RioError):
    """Bytes that are not a frame of this protocol. The connection is closed."""

    code = "protocol_error"


class ProtocolVersionMismatch(ProtocolError):
    """The two sides speak different versions of the protocol.

    ``detail``: the versions that the server speaks.
    """

    code = "protocol_version"


# --- storage --------------------------------------------------------------------------------------


class StorageError(RioError):
    """The root of what storages raise. Only :class:`StateNotFound` may be taken to mean "new"."""


class StateNotFound(StorageError):
    """The storage answered, and it holds no state under this key."""


class StorageUnavailable(StorageError):
    """The storage did not do it: unreachable, locked, full, read-only or too slow.

    A write may still have happened.
    """


class StateCorrupt(StorageError):
    """Bytes are stored, and they do not decode. They are left untouched."""


class SchemaMismatch(StorageError):
    """The database was made by an older or a newer version of ``rio``."""


class StorageClosed(StorageError):
    """The storage was used before ``prepare()`` or after ``close()``."""


# --- membership -----------------------------------------------------------------------------------


class JoinFailed(RioError):
    """A new node could not exchange probes, both ways, with a majority of the other members.

    The address it gave may be a wrong one.
    """


class NodeEvicted(RioError):
    """The cluster has declared this node dead, so it has stopped.

    A supervisor should start it again, as a new member.
    """


class Lagged(RioError):
    """A subscriber was too slow and events were dropped.

    ``missed`` counts them; the subscription goes on.
    """

    def __init__(self, missed: int) -> None:
        super().__init__(f"{missed} event(s) were dropped because the subscriber was too slow")
        self.missed = missed

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.missed,)


def from_code(code: str, message: str, detail: Any = None) -> RioError:
    """The error that arrived as ``code``."""
    cls = _CLASS_OF_CODE.get(code)
    if cls is None:
        return UnknownError(f"unknown error {code!r}: {message}", [code, detail])
    return cls(message, detail)
