"""Everything that ``rio`` raises, as one tree under :class:`RioError`.

After a failed call the first question is "may it have run?". The tree answers it:

* :class:`NotExecuted`: the call did not run. Calling again is safe.
* :class:`OutcomeUnknown`: the call may have run.
* :class:`CallRefused`: a server looked at the call and would not run it. Calling again changes
  nothing.
* :class:`CallFailed`: the call ran and did not end well. Calling again may repeat its effects.

All other errors say what is wrong with a program, a peer, a storage or a node.

A name that ends in ``Error`` is a family of errors; every other name is the condition that was met.
A class that can arrive from a server has a ``code``, its name on the wire. A code maps to one
class. A code that this version does not know arrives as :class:`UnknownCode`, which keeps it.
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


# --- a call that was not executed: calling again is safe ------------------------------------------


class NotExecuted(RioError):
    """The call did not run anywhere. The client has already tried again where that could help."""

    code = "not_executed"


class NoServersAvailable(NotExecuted):
    """The membership lists no active server, or the client could connect to none of them.

    A server that can be reached and is busy answers :class:`Overloaded` instead.
    """


class Redirected(NotExecuted):
    """The object lives on another node. ``detail``: ``[address, generation]``.

    The client follows it, and raises it after too many hops.
    """

    code = "redirect"


class Draining(NotExecuted):
    """The node is about to stop and activates no more objects."""

    code = "draining"


class Unavailable(NotExecuted):
    """The node cannot admit the call now: it lost touch with its storage, or somebody stops it."""

    code = "unavailable"


class Overloaded(NotExecuted):
    """The node reached a limit: of calls in flight, or of calls that wait for one object."""

    code = "overloaded"


class NotActivated(NotExecuted):
    """The object could not be brought to life: the claim, the load or a lifecycle hook failed.

    The text has the cause. ``detail``: ``[exception class name, remote traceback]``.
    """

    code = "not_activated"


class Expired(NotExecuted):
    """The deadline passed before the call started.

    A call that may have started ends as :class:`CallTimeout` instead.
    """

    code = "expired"


class UnknownType(NotExecuted):
    """The node does not host objects of this type.

    The client asks the other nodes before it raises this.
    """

    code = "unknown_type"


# --- a call that may have run ---------------------------------------------------------------------


class OutcomeUnknown(RioError):
    """The call may have run, so the client did not send it again.

    Declare its message ``idempotent`` or ``readonly`` to have the client repeat it instead.
    """

    code = "outcome_unknown"


class ConnectionLost(OutcomeUnknown):
    """The connection broke after the client wrote the call and before the answer came."""


class CallTimeout(OutcomeUnknown, TimeoutError):
    """The deadline passed after the client wrote the call.

    A call that certainly did not start ends as :class:`Expired` instead.
    """

    code = "timeout"


class Superseded(OutcomeUnknown):
    """Another activation of the object has taken over.

    This activation can save no more state, and its node drops it from memory.
    """

    code = "superseded"


class Deadlock(OutcomeUnknown):
    """A call in this chain of calls would wait for an object that itself waits for that call.

    The call that closes the cycle did not run. A handler that lets the error through has run up to
    there, and its own caller gets the same error. ``detail``: the cycle, a list of
    ``"Type/id.Message"``.
    """

    code = "deadlock"


class UnknownCode(OutcomeUnknown):
    """A server answered with an error code that this version of ``rio`` does not know.

    It promises nothing about whether the call ran. ``detail``: ``[code, detail]`` as received.
    """


# --- a call that a server refused: calling again changes nothing ----------------------------------


class CallRefused(RioError):
    """A server looked at the call and would not run it."""


class BadIdentity(CallRefused, ValueError):
    """A type name or an object id is empty, too long, or no text.

    Type names and message names have 1 to 128 bytes of UTF-8, object ids 1 to 512.
    """

    code = "bad_identity"


class UnknownMessage(CallRefused):
    """The object's type has no handler for this message."""

    code = "unknown_message"


class BadMessage(CallRefused):
    """The payload does not decode into the message's type. The text names the field."""

    code = "bad_message"


class FrameTooLarge(CallRefused):
    """A message is larger than the frame limit of the client or of the server, in bytes.

    A reply that is too large ends as :class:`ReplyTooLarge`: that call ran.
    """

    code = "frame_too_large"


# --- a call that ran and did not end well ---------------------------------------------------------


class CallFailed(RioError):
    """The handler ran and did not end well."""


class HandlerFailed(CallFailed):
    """The handler raised an exception that is no :class:`rio.ApplicationError`.

    The node dropped the object from memory; its saved state stands. ``detail``: ``[exception class
    name, remote traceback]``.
    """

    code = "handler_failed"

    def __str__(self) -> str:
        has_traceback = isinstance(self.detail, (list, tuple)) and len(self.detail) > 1
        remote = self.detail[1] if has_traceback else ""
        return f"{self.message}\n\nremote traceback:\n{remote}" if remote else self.message


class BadReply(CallFailed):
    """The handler's reply is not of its declared type, or does not decode into the expected one."""

    code = "bad_reply"


class ReplyTooLarge(CallFailed):
    """The handler ran, and its reply is larger than the frame limit of the server, in bytes."""

    code = "reply_too_large"


# --- a program that is put together in the wrong way ----------------------------------------------


class ConfigurationError(RioError, ValueError):
    """A setting or a storage URL that cannot work."""


class BadAddress(ConfigurationError):
    """A text that is not ``HOST:PORT``."""


class BadRegistration(RioError, TypeError):
    """A class or a handler that cannot be registered.

    The text names the class and the line to change.
    """


class NotAttached(RioError, RuntimeError):
    """A service object that no server has activated was asked to send, save or publish.

    Such an instance can handle messages in a test, and nothing else.
    """


class BindFailed(RioError, OSError):
    """The server cannot listen on its address: it is taken, or is not one of this machine."""


# --- a peer that does not speak the protocol ------------------------------------------------------


class ProtocolError(RioError):
    """Bytes that are not a frame of this protocol. The connection is closed."""

    code = "protocol_error"


class ProtocolVersionMismatch(ProtocolError):
    """The two sides speak different versions of the protocol.

    ``detail``: the versions that the server speaks.
    """

    code = "protocol_version"


# --- a storage ------------------------------------------------------------------------------------


class StorageError(RioError):
    """The root of what storages raise. Only :class:`StateNotFound` means that an object is new."""


class StateNotFound(StorageError):
    """The storage answered, and it holds no state under this key."""


class StorageUnavailable(StorageError):
    """The storage did not do it: unreachable, locked, full, read-only or too slow.

    A write may still have happened.
    """


class StateCorrupt(StorageError):
    """The stored bytes do not decode. The storage leaves them untouched."""


class SchemaMismatch(StorageError):
    """An older or a newer version of ``rio`` made the database."""


class StorageClosed(StorageError):
    """The storage was used before ``prepare()`` or after ``close()``."""


# --- a node and its cluster -----------------------------------------------------------------------


class ClusterError(RioError):
    """The root of what keeps a node out of its cluster."""


class JoinFailed(ClusterError):
    """A new node could not exchange probes, both ways, with a majority of the other members.

    The address that it advertises may be a wrong one.
    """


class NodeEvicted(ClusterError):
    """The cluster has declared this node dead, so the node has stopped.

    A supervisor should start it again, as a new member.
    """


# --- a subscription -------------------------------------------------------------------------------


class Lagged(RioError):
    """A subscriber was too slow, and events were dropped. The subscription goes on."""

    def __init__(self, missed: int) -> None:
        super().__init__(f"{missed} event(s) were dropped because the subscriber was too slow")
        self.missed = missed
        """How many events were dropped."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.missed,)


def from_code(code: str, message: str, detail: Any = None) -> RioError:
    """The error that arrived as ``code``."""
    cls = _CLASS_OF_CODE.get(code)
    if cls is None:
        return UnknownCode(f"unknown error {code!r}: {message}", [code, detail])
    return cls(message, detail)
