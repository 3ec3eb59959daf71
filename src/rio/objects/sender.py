"""What can send a message to an object: the one place where the types of ``send`` are written."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any, ClassVar, Protocol, TypeVar, overload

from rio.objects.handler import Handler
from rio.objects.message import DynamicMessage, Message

T = TypeVar("T")
R = TypeVar("R")


class Recipient(Protocol):
    """An object that messages are sent to: a :class:`rio.ServiceObject`."""

    __rio_type_name__: ClassVar[str]
    __rio_handlers__: ClassVar[dict[str, Handler[Any, Any, Any]]]


class Carrier(Protocol):
    """What carries a message to its object: a client's compiled caller, or a live object's
    activation.
    """

    def send(
        self,
        object_type: Any,
        id: str,
        message: Any,
        /,
        *,
        returns: Any = None,
        timeout: float | None = None,
    ) -> Awaitable[Any]: ...

    def tell(
        self, object_type: Any, id: str, message: Any, /, *, timeout: float | None = None
    ) -> None: ...


class Sender:
    """What users send messages with: :class:`rio.Client` and :class:`rio.ServiceObject`."""

    def _carrier(self) -> Carrier:
        """What carries the messages of this sender."""
        raise NotImplementedError  # a client and a live object each have their own

    @overload
    def send(
        self,
        object_type: type[Recipient] | str,
        id: str,
        message: Message[R],
        /,
        *,
        timeout: float | None = None,
    ) -> Awaitable[R]: ...
    @overload
    def send(
        self,
        object_type: type[Recipient] | str,
        id: str,
        message: DynamicMessage,
        /,
        *,
        timeout: float | None = None,
    ) -> Awaitable[Any]: ...
    @overload
    def send(
        self,
        object_type: type[Recipient] | str,
        id: str,
        message: Message[Any] | DynamicMessage,
        /,
        *,
        returns: type[T],
        timeout: float | None = None,
    ) -> Awaitable[T]: ...
    def send(
        self,
        object_type: type[Recipient] | str,
        id: str,
        message: Message[Any] | DynamicMessage,
        /,
        *,
        returns: Any = None,
        timeout: float | None = None,
    ) -> Awaitable[Any]:
        """Send a message to an object, wherever it lives, and await the reply.

        ``object_type`` is the object's class, or the name of its type (1 to 128 bytes). ``id`` has
        1 to 512 bytes. ``timeout`` is in seconds; without it the client's own timeout holds. A call
        that is made while a handler runs also ends at the deadline of the call that the handler
        answers. The encoded message has to fit into the frame limit, 4 MiB unless the client sets
        another one.

        The reply is decoded into ``returns``, else into the type that the message declares, else
        into the type that the handler of ``object_type`` returns if ``object_type`` is a class,
        else into plain values.

        The message is on its way when ``send`` returns. Messages to one object over one connection
        arrive in the order in which they were sent, but for calls that the client had to try again.
        Cancelling the awaiting task cancels the work.

        :raises ApplicationError: the handler raised it; it arrives as the same class.
        :raises NotExecuted: the call did not run, and calling again is safe: no server can be
            reached or takes the object, or the deadline passed before the call started.
        :raises OutcomeUnknown: the call may have run: the connection broke, or the deadline passed
            after the call was sent. Declare the message ``idempotent`` or ``readonly``, and the
            client repeats the call when a connection breaks.
        :raises Deadlock: (an ``OutcomeUnknown``) the call, or a call that its handler made, would
            wait for itself.
        :raises CallRefused: the object has no handler for the message, or the message does not
            encode, decode or fit.
        :raises CallFailed: the handler raised something else, or its reply is not what is expected.
        :raises BadIdentity: ``object_type`` or ``id`` is empty, too long or not valid text.
        :raises TypeError: ``message`` is not a :class:`rio.Message` or
            :class:`rio.DynamicMessage`.
        :raises RuntimeError: the sender is not in use: the client is not open, or no server has
            activated the object.
        """
        return self._carrier().send(object_type, id, message, returns=returns, timeout=timeout)

    def tell(
        self,
        object_type: type[Recipient] | str,
        id: str,
        message: Message[Any] | DynamicMessage,
        /,
        *,
        timeout: float | None = None,
    ) -> None:
        """Send a message to an object without waiting for its answer.

        The parameters are those of :meth:`send`, and the message keeps its order among the messages
        that are sent. The call belongs to no turn: it does not end with the turn during which it is
        made, and an object may tell itself, or whoever waits for it, without a deadlock. It runs
        at most once, unless the message is declared ``idempotent`` or ``readonly``. What becomes of
        it is not told; if it fails, the logger ``rio.client`` says so.

        :raises NotExecuted: it is known already that the call does not run.
        :raises CallRefused: the message does not encode or fit.
        :raises BadIdentity: ``object_type`` or ``id`` is empty, too long or not valid text.
        :raises TypeError: ``message`` is not a :class:`rio.Message` or
            :class:`rio.DynamicMessage`.
        :raises RuntimeError: the sender is not in use: the client is not open, or no server has
            activated the object.
        """
        self._carrier().tell(object_type, id, message, timeout=timeout)
