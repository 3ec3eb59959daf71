"""The errors that ``rio`` raises: one tree under :class:`RioError`.

After a failed call the first question is "may it have run?". The tree answers it:

* :class:`NotExecuted`: the call did not run. Calling again is safe.
* :class:`OutcomeUnknown`: the call may have run.
* :class:`CallRefused`: a server looked at the call and would not run it. Calling again changes
  nothing.
* :class:`CallFailed`: the call ran and did not end well. Calling again may repeat its effects.

All other errors say what is wrong with a program, a peer, a storage or a node.

A name that ends in ``Error`` is a family of errors; every other name is the condition that was met.
A class that can arrive from a server has a ``code``, its name on the wire. A code stands for one
class. A code that this version does not know arrives as :class:`UnknownCode`, which keeps it.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

APPLICATION_ERROR = "application_error"
"""The code of every application error. Transport and client read it without knowing the class."""


class RioError(Exception):
    """The root of all errors of ``rio``. The module :mod:`rio.errors` describes the tree.

    The classes in :mod:`rio.errors` are raised by ``rio``. For errors of your own, subclass
    :class:`rio.ApplicationError`.
    """

    code: ClassVar[str] = ""
    """The name of the class on the wire; empty for an error that does not arrive from a server."""

    def __init__(self, message: str = "", detail: Any = None) -> None:
        super().__init__(message)
        self.message = message
        """For a person: what was wrong and what to do."""
        self.detail = detail
        """For a program: a value of MessagePack types. The docstring of the class says its shape;
        ``None`` where it says nothing.
        """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        code = cls.__dict__.get("code", "")
        if code:
            known = _CLASS_OF_CODE.setdefault(code, cls)
            if known is not cls:
                raise TypeError(
                    f"error code {code!r} of {cls.__name__} already belongs to {known.__name__}:"
                    " choose another one"
                )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.message, self.detail)


_CLASS_OF_CODE: dict[str, type[RioError]] = {}


# --- a call that was not executed: calling again is safe ------------------------------------------


class NotExecuted(RioError):
    """The call did not run anywhere, so calling again is safe.

    The client has already tried again where that could help.
    """

    code = "not_executed"


class NoServersAvailable(NotExecuted):
    """Until the deadline the membership listed no active server, or the client could connect to
    none of them. The text names the storage that was read, and how many members it holds.

    A server that can be reached and is busy answers :class:`Overloaded` instead.
    """


class Redirected(NotExecuted):
    """The object lives on another node. ``detail``: ``[address, generation]`` of that node.

    The client follows a redirect to the other node. After some in a row it waits a little: the
    nodes do not agree yet.
    """

    code = "redirect"


class WrongServer(NotExecuted):
    """The server at an address is not the one that was meant: it belongs to another cluster, or it
    is another member.
    """

    code = "wrong_server"


class NotAuthenticated(NotExecuted):
    """One side of a connection could not prove itself to the other: it holds no key, or one that
    the other side does not know. The text says which, and what to do. See :class:`rio.Security`.
    """

    code = "not_authenticated"


class Draining(NotExecuted):
    """The node is about to stop, so it activates no more objects."""

    code = "draining"


class Unavailable(NotExecuted):
    """The node cannot admit the call at present.

    It does not run, does not hold its lease, or could not claim the object in the storage.
    """

    code = "unavailable"


class Overloaded(NotExecuted):
    """A server has reached a limit, or the connection to it has. The text says which.

    The limits are for calls in flight on a node, for calls that wait for one object, for bytes that
    wait to be sent to a server, and for the time that a call would have to wait for a busy server.
    In that case ``detail`` is ``[seconds]``, after which it is worth to come again. The client does
    that, and raises this error at once where the deadline comes first.
    """

    code = "overloaded"

    @property
    def retry_after(self) -> float:
        """Seconds after which it is worth to come again, at most a minute; 0 if nobody knows."""
        match self.detail:
            case [int() | float() as seconds] if 0 <= seconds < math.inf:
                return min(float(seconds), 60.0)
        return 0.0


class NotActivated(NotExecuted):
    """The node could not bring the object to life, because its load or a lifecycle hook failed.

    The text has the cause. ``detail``: ``[exception class name, remote traceback]``.
    """

    code = "not_activated"


class StateTooNew(NotExecuted):
    """The state was saved under a newer schema than the node's class has.

    The client has asked the other servers too. ``detail``: ``[stored schema, known schema]``.
    """

    code = "state_too_new"


class Expired(NotExecuted):
    """The deadline passed before the call started.

    A call that may have started ends as :class:`CallTimeout` instead.
    """

    code = "expired"


class UnknownType(NotExecuted):
    """No node hosts objects of this type. The client has asked all of them.

    Register the class with :class:`rio.Registry`, or look at the spelling of its type name.
    """

    code = "unknown_type"


# --- a call that may have run ---------------------------------------------------------------------


class OutcomeUnknown(RioError):
    """The call may have run, so the client did not send it again.

    If a repetition does no harm, declare the message ``idempotent`` or ``readonly``: then the
    client repeats the call.
    """

    code = "outcome_unknown"


class ConnectionLost(OutcomeUnknown):
    """The connection broke after the client had written the call and before the answer came.

    If the client had written nothing yet, it would have tried again.
    """


class CallTimeout(OutcomeUnknown, TimeoutError):
    """The deadline passed after the client had written the call.

    A call that certainly did not start ends as :class:`Expired` instead. ``except TimeoutError``
    catches this class.
    """

    code = "timeout"


class Superseded(OutcomeUnknown):
    """Another activation of the object has taken over, so the storage refuses to save its state.

    The node drops the activation from memory.
    """

    code = "superseded"


class Deadlock(OutcomeUnknown):
    """A call would wait for an object that itself waits for that call.

    The call that closes the circle did not run. A handler that lets the error through has run up to
    that call, and its own caller gets the same error. ``detail``: the circle, a list of
    ``"Type/id.Message"``.
    """

    code = "deadlock"


class UnknownCode(OutcomeUnknown):
    """A server answered with an error code that this version of ``rio`` does not know.

    It promises nothing about whether the call ran. ``detail``: ``[code, detail]`` as received.
    """


# --- a call that a server refused: calling again changes nothing ----------------------------------


class CallRefused(RioError):
    """A server, or the client itself, looked at the call and would not run it.

    Calling again changes nothing: the call is wrong.
    """


class BadIdentity(CallRefused, ValueError):
    """A type name, a message name or an object id is empty, too long, or not text.

    A type name and a message name have 1 to 128 bytes of UTF-8, an object id has 1 to 512.
    """

    code = "bad_identity"


class Forbidden(CallRefused):
    """The key of the client does not allow the call, or the server's ``authorize`` does not."""

    code = "forbidden"


class UnknownMessage(CallRefused):
    """The object's class has no handler for this message."""

    code = "unknown_message"


class BadMessage(CallRefused):
    """The message cannot be encoded, or does not decode into its class at the server.

    The text names the field.
    """

    code = "bad_message"


class FrameTooLarge(CallRefused):
    """A message is larger than the frame limit of the client or of the server.

    The text has both sizes in bytes. A reply that is too large ends as :class:`ReplyTooLarge`
    instead: that call ran.
    """

    code = "frame_too_large"


# --- a call that ran and did not end well ---------------------------------------------------------


class CallFailed(RioError):
    """The handler ran and did not end well. Calling again may repeat its effects."""


class HandlerFailed(CallFailed):
    """The handler raised an exception that is not a :class:`rio.ApplicationError`.

    The node has dropped the object from memory; its saved state stands. ``str()`` of this error has
    the remote traceback. ``detail``: ``[exception class name, remote traceback]``.
    """

    code = "handler_failed"

    def __str__(self) -> str:
        match self.detail:
            case [_, traceback, *_] if traceback:
                return f"{self.message}\n\nremote traceback:\n{traceback}"
            case _:
                return self.message


class BadReply(CallFailed):
    """The reply is not of the handler's declared type, or does not decode into the expected one."""

    code = "bad_reply"


class ReplyTooLarge(CallFailed):
    """The handler ran, and its reply is larger than the frame limit of the server or of the
    client.

    The text has both sizes in bytes. A message that is too large ends as :class:`FrameTooLarge`
    instead: that call did not run.
    """

    code = "reply_too_large"


# --- a program that is put together in the wrong way ----------------------------------------------


class ConfigurationError(RioError, ValueError):
    """A setting or a storage URL cannot work. The text names it."""


class BadAddress(ConfigurationError):
    """The text of an address is not ``HOST:PORT`` or ``[IPV6]:PORT``."""


class BadRegistration(RioError, TypeError):
    """A class of objects, messages or errors, or a handler, breaks a rule.

    The text names the class, in most cases the line, and what to change.
    """


class NotAttached(RioError, RuntimeError):
    """A service object was asked to send, save or publish, but no server has activated it.

    Your program has made this instance itself. Such an instance can handle messages in a test, and
    nothing else.
    """


class Deactivated(RioError, RuntimeError):
    """A service object was asked to send, save or publish after its activation had ended.

    A task has kept the instance for longer than the object was in memory. Send the object a message
    by a client, or have the object own the task: ``self.tasks.create(...)``. An instance that no
    server has activated yet raises :class:`NotAttached` instead.
    """


class BadState(RioError, ValueError):
    """A managed state holds a value that cannot be saved, or would be loaded as another one.

    The text names the field, and so does ``detail``: ``"ledger.lines[3].amount"``. Nothing was
    written, and the object lives on with its state as it is: set it right, or load the stored one.
    """


class StateTooLarge(RioError, ValueError):
    """A managed state takes more bytes than the ``state_limit`` of the server.

    Nothing was written, and the object lives on with its state as it is.
    """


class BindFailed(RioError, OSError):
    """The server cannot listen on its address.

    Another program listens there, or it is not an address of this machine.
    """


# --- a peer that does not speak the protocol ------------------------------------------------------


class ProtocolError(RioError):
    """A peer sent bytes that are not a frame of this protocol. The connection is closed."""

    code = "protocol_error"


class ProtocolVersionMismatch(ProtocolError):
    """The two sides speak different versions of the protocol.

    ``detail``: the versions that the server speaks.
    """

    code = "protocol_version"


# --- a storage ------------------------------------------------------------------------------------


class StorageError(RioError):
    """The root of the errors that a storage raises.

    None of them means that an object was never saved, except :class:`StateNotFound`.
    """


class StateNotFound(StorageError):
    """A simple storage has answered that it holds nothing of this object.

    Only subclasses of :class:`rio.contracts.SimpleStateStorage` raise it.
    """


class StorageUnavailable(StorageError):
    """The storage could not do its work: it is unreachable, locked, full, read-only or too slow.

    A write may have happened nevertheless, unless the text says that nothing was done.
    """


class StateCorrupt(StorageError):
    """The stored bytes do not decode into the state's class. The storage keeps them as they are."""


class UnknownKey(StorageError):
    """A state is encrypted under a key that the keyring of the :class:`rio.storage.EncryptedState`
    does not have.

    The text names the key, and the storage keeps the state as it is. Give the servers of a cluster
    a new key as one that reads before it is the first of any of them.
    """


class RowCorrupt(StorageError):
    """A row or key of a database holds what ``rio`` has not written, or a part of it is missing.

    The text names it. Members and placements are read again until they are right; the storage keeps
    the row as it is. A damaged state is :class:`StateCorrupt` instead.
    """


class SchemaMismatch(StorageError):
    """Another version of ``rio`` made the tables or keys of this database."""


class WrongCluster(StorageError):
    """A storage belongs to another cluster than the members do, so a server will not use it.

    The text names both clusters. See :meth:`rio.contracts.Role.adopt`.
    """


class Unsupported(StorageError):
    """This storage cannot do what it was asked for. Nothing was done; use another back end."""


class StorageClosed(StorageError):
    """The storage was used before ``prepare()`` or after ``close()``."""


# --- a node and its cluster -----------------------------------------------------------------------


class ClusterError(RioError):
    """The root of the errors that keep a node out of its cluster."""


class JoinFailed(ClusterError):
    """A new node may not join, or cannot.

    It could not exchange probes, both ways, with a majority of the other members: look whether the
    others can reach the address that the node advertises. Or a member lives that runs with other
    settings: give all the same. The text says which.
    """


class NodeEvicted(ClusterError):
    """The cluster has declared this node dead, so the node has stopped.

    A supervisor should start it again, as a new member.
    """


# --- a subscription -------------------------------------------------------------------------------


class Gap(RioError):
    """Events are missing in this place of a subscription. The subscription goes on after it.

    The subscriber or its connection was too slow, or the object or the connection to it went away
    for a while. If you follow the object's state by its events, read the state now: events that
    are published after this error reach you.
    """

    def __init__(self, missed: int | None) -> None:
        super().__init__(
            "the object, or the connection to it, went away for a while: events may be missing"
            if missed is None
            else f"{missed} event(s) were dropped because the subscriber was too slow or cut off"
        )
        self.missed = missed
        """The number of missing events; ``None``: unknown, perhaps none."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.missed,)


def from_code(code: str, message: str, detail: Any = None) -> RioError:
    """The error that a server has sent as ``code``, with its text and its detail.

    A code that this version does not know gives an :class:`UnknownCode`; so does that of an
    application's error, of which the code does not tell the class.
    """
    cls = _CLASS_OF_CODE.get(code)
    if cls is None or code == APPLICATION_ERROR:
        return UnknownCode(
            f"a server answered with an error that this version of rio does not know, {code!r}:"
            f" {message}",
            [code, detail],
        )
    return cls(message, detail)
