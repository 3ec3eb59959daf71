"""A request's slow path on a node: claim and redirect, activation and deactivation, and what is
answered when something fails.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, NoReturn

import msgspec

from rio._core.clock import Clock
from rio._core.dispatch import Dispatcher, Mailbox, Method, Turn, TypeTable, current
from rio._core.frame import DEFAULT_FRAME_LIMIT
from rio.cluster.provider import ClusterProvider
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import StateStorage
from rio.errors import (
    BadRegistration,
    BadReply,
    Deadlock,
    Draining,
    FrameTooLarge,
    HandlerFailed,
    NodeEvicted,
    NotActivated,
    NotExecuted,
    OutcomeUnknown,
    Redirected,
    RioError,
    StorageError,
    StorageUnavailable,
    Superseded,
    Unavailable,
)
from rio.identity import Address, ObjectId, type_name_of
from rio.objects import system_messages
from rio.objects.app_data import AppData
from rio.objects.application_error import ApplicationError
from rio.objects.handler import Handler
from rio.objects.message import Message
from rio.objects.registry import RegisteredType, Registry
from rio.server.activation import Activation, ActivationHost
from rio.server.pubsub import MessageRouter
from rio.transport import call_context, codec, protocol
from rio.transport.codec import ENCODER

logger = logging.getLogger("rio.service")

RELEASE_BATCH = 64
"""Objects that are deactivated at the same time while the node drains."""
ROOM_FOR_EVENT_HEAD = 160
"""Bytes that an event takes at most besides its payload."""
ABORT_TIMEOUT = 1.0
"""Seconds that handlers and hooks which were cancelled have to end."""


class Service(ActivationHost):
    """What one node does for its objects.

    The server owns it; the compiled dispatcher comes here when a request is not an ordinary one.
    """

    def __init__(
        self,
        registry: Registry,
        *,
        placement: ObjectPlacement,
        state: StateStorage,
        cluster: ClusterProvider,
        app_data: AppData,
        clock: Clock | None,
        frame_limit: int = DEFAULT_FRAME_LIMIT,
    ) -> None:
        self.registry = registry
        self.placement = placement
        self.state = state
        self.cluster = cluster
        self.app_data = app_data
        self.frame_limit = frame_limit
        self.router = MessageRouter()
        self.draining = False
        self.dispatcher = Dispatcher(
            self, [self._table(registered) for registered in registry], clock=clock
        )
        self.dispatcher.app_data = app_data
        self._tasks: dict[asyncio.Task[None], None] = {}  # an ordered set
        self.send = self._not_running

    def start(
        self, loop: asyncio.AbstractEventLoop, address: Address, send: Callable[..., Awaitable[Any]]
    ) -> None:
        """``send`` is how objects reach others: the send method of a client that knows the whole
        cluster.
        """
        self.dispatcher.loop = loop
        self.address = address
        self.send = send

    # --- what activations need --------------------------------------------------------------------

    def publish(self, object_id: ObjectId, type_name: str, payload: bytes) -> None:
        if len(payload) + ROOM_FOR_EVENT_HEAD > self.frame_limit:
            raise FrameTooLarge(
                f"{type_name} of {object_id} takes {len(payload)} bytes, the frame limit is {self.frame_limit}"
            )
        self.router.publish(object_id, type_name, payload)

    def _not_running(self, *_: Any, **__: Any) -> NoReturn:
        raise Unavailable("the server does not run")

    # --- the dispatch table -----------------------------------------------------------------------

    def _table(self, registered: RegisteredType) -> TypeTable:
        if registered.type_name.startswith(system_messages.RESERVED_PREFIX):
            raise BadRegistration(
                f"{registered.cls.__name__}: type names that start with {system_messages.RESERVED_PREFIX!r} are reserved"
            )
        methods = [_method(handler) for handler in registered.handlers.values()]
        reserved = [
            method.name
            for method in methods
            if method.name.startswith(system_messages.RESERVED_PREFIX)
        ]
        if reserved:
            raise BadRegistration(
                f"{registered.cls.__name__} handles {reserved[0]!r}: names that start with 'rio.' are reserved"
            )
        return TypeTable(registered.type_name, [*methods, *self._methods_of_every_object()])

    def _methods_of_every_object(self) -> Iterable[Method]:
        yield _builtin(system_messages.Subscribe, self._subscribe)
        yield _builtin(system_messages.Shutdown, self._shutdown)

    def _subscribe(self, instance: Any, message: system_messages.Subscribe) -> None:
        turn = _current_turn()
        self.router.subscribe(instance.object_id, turn.connection, message.number)

    def _shutdown(self, instance: Any, _: system_messages.Shutdown) -> None:
        _current_turn().mailbox.closing = True

    def unknown_type(self, type_name: str) -> str:
        hosted = ", ".join(sorted(self.dispatcher.tables)) or "nothing"
        return f"{self.address} does not host objects of type {type_name!r}; it hosts: {hosted}"

    def unknown_message(self, table: TypeTable, message_name: str) -> str:
        known = (
            ", ".join(
                sorted(
                    name
                    for name in table.methods
                    if not name.startswith(system_messages.RESERVED_PREFIX)
                )
            )
            or "nothing"
        )
        return (
            f"{table.type_name!r} has no handler for message {message_name!r}; it handles: {known}"
        )

    # --- activation -------------------------------------------------------------------------------

    def activate(self, turn: Turn) -> None:
        """A request for an object that is not in memory here."""
        if self.draining:
            turn.fail(Draining(f"{self.address} is about to stop"))
        elif not self.dispatcher.admits:
            turn.fail(Unavailable(f"{self.address} does not hold its lease at present"))
        else:
            activation = Activation(turn.table, turn.id, self.registry[turn.type_name], self)
            turn.wait_for(activation)
            self._begin(activation, self._activate, self._given_up, turn.context)

    def _begin(
        self,
        activation: Activation,
        steps: Callable[[Activation], Coroutine[Any, Any, None]],
        settle: Callable[[Activation], None],
        caller: bytes | None = None,
    ) -> None:
        """Take the steps of a lifecycle in a task.

        ``settle``: what becomes of the object if they do not come to their end. The task's callback
        calls it, and not the task's own code: a task that is cancelled before its first step runs
        none of that, and the object would stay between two states for ever. ``caller``: the context
        of the request that asks for the object.
        """
        context = contextvars.copy_context()
        context.run(activation.begin, self.dispatcher, caller)
        name = f"{steps.__name__} {activation.table.type_name}/{activation.id}"
        task = self.dispatcher.loop.create_task(steps(activation), name=name, context=context)
        self._tasks[task] = None
        ended = partial(self._lifecycle_ended, activation, activation.turn, settle)
        task.add_done_callback(ended, context=context)

    def _lifecycle_ended(
        self,
        activation: Activation,
        turn: Turn | None,
        settle: Callable[[Activation], None],
        task: asyncio.Task[None],
    ) -> None:
        self._tasks.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())
        if turn is not None and not turn.finished:
            settle(activation)

    async def _activate(self, activation: Activation) -> None:
        refusal = await self._claim_for(activation) or await self._load(activation)
        if refusal is None:
            activation.opened(self.dispatcher)
        else:
            self._refuse(activation, refusal)

    def _given_up(self, activation: Activation) -> None:
        text = f"{self.address} stopped while {activation.object_id} was loaded"
        self._refuse(activation, Unavailable(text))

    def _refuse(self, activation: Activation, error: RioError) -> None:
        for turn in activation.remove():
            turn.fail(error)

    async def _claim_for(self, activation: Activation) -> RioError | None:
        """Claim the object; or what to answer, because it is not ours."""
        try:
            placement = await self._claim(activation.object_id)
        except NotExecuted as error:
            return error
        except (StorageError, NodeEvicted) as error:
            return Unavailable(
                f"{activation.object_id} could not be claimed: {protocol.text_of(error)}"
            )
        if placement.generation != self.cluster.generation:
            return self._elsewhere(activation.object_id, placement)
        activation.token = placement.token
        return (
            None
            if self.dispatcher.admits
            else Unavailable(
                f"{self.address} lost its lease while it claimed {activation.object_id}"
            )
        )

    async def _load(self, activation: Activation) -> RioError | None:
        """Bring the object to life; or give the claim back, and what to answer."""
        try:
            await activation.load()
        except Exception as error:
            answer = self._not_loaded(activation, error)
        else:
            if not activation.failed:
                return None
            answer = Unavailable(
                f"{activation.object_id} may not have saved its state while it was loaded"
            )
        await self._release(activation)
        return answer

    def _not_loaded(self, activation: Activation, error: Exception) -> RioError:
        text = protocol.text_of(error)
        if activation.superseded:
            return Unavailable(
                f"{activation.object_id} was taken over by another node while it was loaded: {text}"
            )
        if isinstance(error, StorageUnavailable):
            return Unavailable(f"{activation.object_id} could not be loaded: {text}")
        logger.error("%s could not be activated", activation.object_id, exc_info=error)
        detail = [type(error).__name__, protocol.traceback_of(error)]
        return NotActivated(f"{activation.object_id} could not be activated: {text}", detail)

    async def _claim(self, object_id: ObjectId) -> Placement:
        """The placement that stands: ours, or that of a member which is not known to be gone."""
        own = self.cluster.generation
        placement = await self.placement.claim(object_id, own)
        while placement.generation not in (own, None) and await self._is_gone(placement.generation):
            standing, placement = (
                placement,
                await self.placement.claim(object_id, own, supersede=placement.token),
            )
            if placement == standing:
                raise Unavailable(
                    f"{object_id} could not be taken over from member {standing.generation}"
                )
        return placement

    async def _is_gone(self, generation: int | None) -> bool:
        assert generation is not None
        status = self.cluster.snapshot.status_of(generation)
        if status is None:
            status = (await self.cluster.refresh()).status_of(generation)
        return status is not None and status.terminal

    def _elsewhere(self, object_id: ObjectId, placement: Placement) -> RioError:
        owner = (
            None
            if placement.generation is None
            else self.cluster.snapshot.find(placement.generation)
        )
        if owner is None:
            return Unavailable(
                f"{object_id} belongs to member {placement.generation}, which is not known here yet"
            )
        return Redirected(
            f"{object_id} lives on {owner.address}", [owner.address, owner.generation]
        )

    async def _release(self, activation: Activation) -> None:
        if activation.token and not activation.superseded:
            try:
                await self.placement.release(activation.object_id, activation.token)
            except StorageError as error:
                logger.warning("%s stays claimed by this node: %s", activation.object_id, error)

    # --- deactivation -----------------------------------------------------------------------------

    def turn_ended(self, activation: Mailbox) -> None:
        """No turn runs and none may start: the object goes."""
        assert isinstance(activation, Activation)
        self._begin(activation, self._deactivate, self._leave)

    async def _deactivate(self, activation: Activation) -> None:
        try:
            if not activation.failed:
                await activation.unload()
        except Exception as error:
            logger.error("the shutdown hook of %s failed", activation.object_id, exc_info=error)
        finally:
            await self._release(activation)
        self._leave(activation)

    def _leave(self, activation: Activation) -> None:
        self.router.end(
            activation.object_id, Unavailable(f"{activation.object_id} left {self.address}")
        )
        for turn in activation.remove():
            standing = turn.table.mailboxes.get(turn.id)
            if standing is None:
                self.activate(turn)
            else:
                turn.wait_for(standing)

    async def deactivate_all(self) -> None:
        """Let all objects finish what waits for them, run their shutdown hooks and release them.

        New ones are refused from now on.
        """
        self.draining = True
        for activation in self.dispatcher.mailboxes():
            while len(self._tasks) >= RELEASE_BATCH:
                await self._some_lifecycle_ends()
            if not activation.closing:
                activation.closing = True
                self.dispatcher.pump(activation)
        while self.dispatcher.live:
            await self._some_lifecycle_ends()

    async def _some_lifecycle_ends(self) -> None:
        if self._tasks:
            await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        else:
            await asyncio.sleep(0.01)  # turns are running: their end starts the next lifecycle task

    def cancel_running(self) -> list[asyncio.Task[Any]]:
        """Cancel all handlers and lifecycle hooks that wait for something. Returns their tasks."""
        tasks = [*self.dispatcher.cancel_running(), *self._tasks]
        for task in self._tasks:
            task.cancel()
        return tasks

    async def abort(self) -> None:
        """Stop at once, saving nothing: the node is not the owner of its objects any more."""
        self.draining = True
        self.dispatcher.set_lease(-math.inf)
        for activation in self.dispatcher.mailboxes():
            activation.failed = True
        try:
            async with asyncio.timeout(ABORT_TIMEOUT):
                while tasks := self.cancel_running():
                    await asyncio.wait(tasks)
        except TimeoutError:
            logger.error(
                "handlers or hooks were cancelled and do not end: %s", self.cancel_running()
            )
        for activation in self.dispatcher.mailboxes():
            for turn in activation.remove():
                turn.fail(Unavailable(f"{self.address} was stopped"))

    # --- what is answered when something fails ----------------------------------------------------

    def cycle(self, turn: Turn, activation: Mailbox) -> RioError | None:
        assert activation.turn is not None
        return call_context.cycle(turn, activation.turn)

    def undecodable(self, turn: Turn, error: Exception) -> RioError:
        handler = turn.method.handler
        return codec.decode_error(error, handler.message_type or Any)

    def unencodable(self, value: Any, error: Exception) -> RioError:
        return error if isinstance(error, RioError) else codec.encode_error(error, value)

    def encode_reply(self, turn: Turn, value: Any) -> bytes:
        """A reply whose class is not exactly the declared one.

        :raises BadReply: it is not of the declared type.
        """
        declared = turn.method.handler.reply_type
        if declared is Any:
            return codec.encode_dynamic(value, failure=BadReply)
        payload = codec.encode(value)
        try:
            codec.decode(payload, declared, failure=BadReply)
        except BadReply as error:
            kind = type(value).__name__
            raise BadReply(
                f"the handler {turn.method.handler!r} returned a {kind}, which is not what it declares: {error}"
            ) from error
        return payload

    def handler_failed(self, turn: Turn, error: BaseException) -> None:
        """The handler raised: an application error is an answer, anything else costs the object its
        memory.
        """
        if isinstance(error, ApplicationError):
            turn.fail(error)
            return
        activation = turn.mailbox
        assert isinstance(activation, Activation)
        activation.drop()
        logger.error(
            "%s failed in %r and is dropped from memory",
            activation.object_id,
            turn.method.handler,
            exc_info=error,
        )
        turn.fail(_answer_to(turn, error))


def _answer_to(turn: Turn, error: BaseException) -> RioError:
    """What the caller gets for an exception that the handler did not mean as an answer."""
    if isinstance(error, (Superseded, Deadlock)):
        return error
    text = protocol.text_of(error)
    if isinstance(error, StorageError):
        return OutcomeUnknown(f"{turn.type_name}/{turn.id} may not have saved its state: {text}")
    if isinstance(error, HandlerFailed) and isinstance(error.__cause__, SystemExit):
        return error
    detail = [type(error).__name__, protocol.traceback_of(error)]
    return HandlerFailed(
        f"{turn.type_name}/{turn.id} failed in {turn.message_name}: {text}", detail
    )


def _method(handler: Handler[Any, Any, Any]) -> Method:
    reply = handler.reply_type
    dynamic = handler.message_type is None
    return Method(
        handler,
        handler.message_name,
        function=handler.function,
        decode=codec.decoder_of(Any if dynamic else handler.message_type),
        encode=ENCODER.encode,
        reply_class=reply if isinstance(reply, type) and _is_exact(reply) else None,
        is_async=handler.is_async,
        takes_app_data=handler.takes_app_data,
        timeout=handler.timeout,
    )


def _is_exact(reply: type) -> bool:
    """Whether a value of exactly this class is surely of the declared type, looking no further into
    it than the encoder does.
    """
    return reply in (type(None), bool, int, float, str, bytes) or issubclass(reply, msgspec.Struct)


class _Builtin:
    """What every object answers, in the place of a user's handler."""

    def __init__(self, message_type: type[Message[Any]]) -> None:
        self.message_type = message_type
        self.reply_type = type(None)

    def __repr__(self) -> str:
        return f"<{type_name_of(self.message_type)}>"


def _builtin(message_type: type[Message[Any]], function: Callable[[Any, Any], None]) -> Method:
    return Method(
        _Builtin(message_type),
        type_name_of(message_type),
        function=function,
        decode=codec.decoder_of(message_type),
        encode=ENCODER.encode,
        reply_class=type(None),
        is_async=False,
        takes_app_data=False,
        timeout=None,
    )


def _current_turn() -> Turn:
    turn = current()
    assert turn is not None
    return turn
