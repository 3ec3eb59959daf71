"""What a node hosts: the types of its registry, and their objects that are in memory."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from rio import background
from rio._core.clock import Clock
from rio._core.clock import now as system_clock
from rio._core.dispatch import (
    Dispatcher,
    Mailbox,
    Method,
    RemoteCaller,
    Turn,
    TypeTable,
)
from rio.client.router import Router
from rio.contracts.state import StateStorage
from rio.errors import (
    Draining,
    NotActivated,
    Overloaded,
    ProtocolError,
    RioError,
    Unavailable,
    UnknownMessage,
)
from rio.identity import Address, ObjectId
from rio.logs import Logger
from rio.objects import context_var
from rio.objects.app_data import AppData
from rio.objects.application_error import ApplicationError
from rio.objects.filters import Filter
from rio.objects.managed_state import ManagedStateField
from rio.objects.registry import Registry
from rio.objects.system_messages import RESERVED_PREFIX
from rio.objects.timers import Timer
from rio.server import answers
from rio.server.activation import Activation, RunningHooks
from rio.server.config import ServerConfig, held_limit_of
from rio.server.deadlocks import Deadlocks
from rio.server.filtered import FilterFailed
from rio.server.handlers import HandledElsewhere, NotTaken, passing_row, table_of
from rio.server.idle import IdleObjects
from rio.server.limits import limits_of
from rio.server.notices import Notices
from rio.server.ownership import Ownership
from rio.server.pubsub import Subscribers
from rio.server.quotas import Quotas
from rio.server.stacks import stack_of
from rio.server.states import StateGroup, group_states
from rio.server.threads import Threads
from rio.server.versions import Versions
from rio.transport.call_context import read_context

if TYPE_CHECKING:
    from rio.observability.tracer import TracedSpan, Tracer

logger = Logger("rio.server")

MOST_WASTED_LIVES = 3
"""So often a call has its object brought to life, if that leaves each time before it takes the
call.
"""

RELEASE_BATCH = 64
"""Objects that are deactivated at the same time while the node drains."""
ABORT_TIMEOUT = 1.0
"""Seconds that cancelled handlers and hooks have to end."""
STORAGE_PATIENCE = 10.0
"""Seconds after which a claim or a release is given up whose driver ignores its own timeouts."""


class Lifecycle(msgspec.Struct):
    """An object that comes to life or leaves."""

    activation: Activation
    turn: Turn | None
    """The turn that its hooks hold."""
    settle: Callable[[], None]
    """Decides what becomes of the object, unless the steps did."""
    patience_ends: float = math.inf
    """When the node waits no longer for the claim or the release that runs now."""
    given_up: bool = False
    """It waited too long for one, and has cancelled the steps."""


class Catalog:
    """The types and the objects of one node.

    It is the runtime of the compiled :class:`rio._core.dispatch.Dispatcher`: a request that is not
    an ordinary one leaves the core through one of the methods here.
    """

    def __init__(
        self,
        registry: Registry,
        config: ServerConfig,
        *,
        ownership: Ownership,
        versions: Versions,
        state: StateStorage,
        own_states: Mapping[ManagedStateField, StateStorage],
        app_data: AppData,
        address: Address,
        clock: Clock | None,
        filters: Sequence[Filter] = (),
    ) -> None:
        self.ownership = ownership
        self._versions = versions
        self.state_groups: Mapping[str, Sequence[StateGroup]] = {
            registered.type_name: group_states(registered, own_states, state)
            for registered in registry
        }
        """The states of each type, by its name."""
        self.app_data = app_data
        self.address = address
        """Where the node listens, then the address under which the others know it."""
        self.send: Callable[..., Awaitable[Any]] = _refuse_to_send
        self.tell: Callable[..., None] = _refuse_to_send
        """The compiled methods of the node's client, once the node is bound."""
        self.subscribers = Subscribers(config.frame_limit)
        self.draining = False
        """Nothing is activated any more."""
        self.quotas = Quotas(config, clock or system_clock)
        threads = Threads(config.thread_limit)
        self.dispatcher = Dispatcher(
            self,
            [
                table_of(registered, self.subscribers, self.quotas, threads, filters)
                for registered in registry
            ],
            clock=clock,
            waiting_limit=config.waiting_limit,
            in_flight_limit=config.in_flight_limit,
            held_limit=held_limit_of(config),
        )
        self.dispatcher.max_timeout = config.max_timeout
        self.dispatcher.app_data = app_data
        self.notices = Notices(ownership)
        self._deadlocks = Deadlocks(self.dispatcher)
        self.note_waiting = self._deadlocks.note
        self.idle = IdleObjects(config, self.dispatcher, self.subscribers)
        self.subscribers.on_last_left = self._note_use
        self._hosted = {
            registered.type_name: (registered, limits_of(registered, config))
            for registered in registry
        }
        self._lifecycles: dict[asyncio.Task[None], Lifecycle] = {}
        """The tasks of lifecycles that are under way."""
        self._stuck: dict[asyncio.Task[None], None] = {}
        """Those that were cancelled and do not end. Nothing waits for them any more."""
        self._lease_has_moved = asyncio.Event()
        self._departed = asyncio.Event()

    def use(self, router: Router) -> None:
        """Let the objects send by the node's client."""
        self.send = router.caller.send
        self.tell = router.caller.tell
        self._deadlocks.find_awaited = router.find_awaited

    # --- requests that name something unknown -----------------------------------------------------

    def unknown_type(self, type_name: str) -> str:
        hosted = ", ".join(sorted(self.dispatcher.tables)) or "nothing"
        return f"{self.address} does not host objects of type {type_name!r}; it hosts: {hosted}"

    def find_method(self, table: TypeTable, message_name: str) -> Method | None:
        """How a message is handled that only other members know: it waits for its turn as any
        other, then the object goes to one of them.

        :raises Unavailable: it is not sure yet whether a member knows the message.
        """
        if self._versions.is_handled(table.type_name, message_name):
            return passing_row(message_name)
        if self._versions.is_unknown(table.type_name, message_name):
            return None
        raise self._asks_others(message_name)

    def _asks_others(self, message_name: str) -> Unavailable:
        return Unavailable(
            f"{self.address} does not handle {message_name!r}, and first asks who else does"
        )

    def unknown_message(self, table: TypeTable, message_name: str) -> str:
        names = sorted(name for name in table.methods if not name.startswith(RESERVED_PREFIX))
        return (
            f"{table.type_name!r} has no handler for message {message_name!r}; "
            f"it handles: {', '.join(names) or 'nothing'}"
        )

    # --- calls that do not end in the ordinary way ------------------------------------------------

    undecodable = staticmethod(answers.undecodable)
    unencodable = staticmethod(answers.unencodable)
    encode_reply = staticmethod(answers.encode_reply)
    read_values = staticmethod(context_var.read_values)

    def begin_span(self, turn: Turn) -> TracedSpan:
        """The span of a turn, in a program that traces. The message of a timer that goes on without
        an end is a trace of its own each time.
        """
        try:
            came_with = read_context(turn.context).trace
        except ProtocolError:
            came_with = None
        tracer: Tracer = self.dispatcher.tracer
        return tracer.begin_turn(
            turn,
            came_with,
            age=self.dispatcher.now() - turn.arrived,
            server=self.address,
            is_new=isinstance(turn.caller, Timer) and turn.caller.repeats,
        )

    def answer_failure(self, turn: Turn, error: BaseException) -> None:
        """Answer an exception of a handler, as a part of its trace."""
        if turn.span is None:
            self._answer_failure(turn, error)
        else:
            turn.span.run(self._answer_failure, turn, error)

    def _answer_failure(self, turn: Turn, error: BaseException) -> None:
        """Answer an exception of a handler. If it is no application error, the object may be in any
        state: it is dropped from memory.
        """
        if isinstance(error, HandledElsewhere):
            self._pass_on(turn)
            return
        if isinstance(error, NotTaken):
            turn.fail(error.answer)
            return
        if isinstance(error, FilterFailed):
            turn.fail(answers.to_failed_filter(turn, error.cause))
            logger.error(
                "%s/%s did not run %r: a filter before it failed",
                turn.type_name,
                turn.id,
                turn.method.handler,
                exc_info=error.cause,
            )
            return
        activation: Activation = turn.mailbox
        answer = answers.to_failure(turn, error, own_failure=activation.save_failure)
        if isinstance(answer, ApplicationError):
            turn.fail(answer)
            return
        activation.drop()
        turn.fail(answer)
        logger.error(
            "%s failed in %r and is dropped from memory",
            activation.object_id,
            turn.method.handler,
            exc_info=error,
        )

    def _pass_on(self, turn: Turn) -> None:
        """Let an object go to a member that handles a message; its caller finds it there."""
        activation: Activation = turn.mailbox
        name = turn.method.name
        successor = self.ownership.find_successor(activation.object_id, name)
        if successor is not None:
            activation.leave("upgrade")
            text = f"{activation.object_id} goes to {successor.address}, which handles {name!r}"
            turn.fail(Unavailable(text))
        elif self._versions.is_unknown(turn.type_name, name):
            turn.fail(UnknownMessage(self.unknown_message(turn.table, name)))
        else:  # a connection remembers how its last message was handled
            turn.fail(self._asks_others(name))

    # --- objects that come into memory and leave it -----------------------------------------------

    def activate(self, turn: Turn, wasted_lives: int = 0) -> None:
        """A request for an object that is not in memory here, or one that takes no turn."""
        if not turn.method.takes_turn:
            self.notices.take(turn)
        elif self.draining:
            turn.fail(Draining(f"{self.address} is about to stop"))
        elif not self.dispatcher.admits:
            turn.fail(Unavailable(f"{self.address} does not hold its lease at present"))
        elif not wasted_lives and (problem := self._why_not_wake(turn)) is not None:
            turn.fail(problem)
        elif self.idle.max_objects is not None and not self.idle.make_room():
            live = self.dispatcher.live
            turn.fail(Overloaded(f"{self.address} holds {live} objects, and none can leave now"))
        else:
            registered, limits = self._hosted[turn.type_name]
            activation = Activation(turn.table, turn.id, registered, limits, self, wasted_lives)
            if self.dispatcher.tracer is not None:
                turn.open_span()
            self._begin(activation, activation.activate, activation.give_up, turn)

    def _why_not_wake(self, turn: Turn) -> RioError | None:
        """Why a call of a client does not bring its object to life, or ``None``. What its handler
        would not take is worth no object.
        """
        caller = turn.caller
        if not isinstance(caller, RemoteCaller) or caller.connection.is_node:
            return None
        return turn.why_unreadable() or self.quotas.why_not_activate(
            caller.connection, ObjectId(turn.type_name, turn.id)
        )

    def note_redirected(self, turn: Turn) -> None:
        if isinstance(turn.caller, RemoteCaller):
            self.quotas.give_back_activation(turn.caller.connection)

    def deactivate(self, mailbox: Mailbox) -> None:
        """No turn of an object runs and none may start: the object leaves."""
        assert isinstance(mailbox, Activation)
        self._begin(mailbox, mailbox.deactivate, partial(self._leave, mailbox))

    def _begin(
        self,
        activation: Activation,
        steps: Callable[[], Coroutine[Any, Any, None]],
        settle: Callable[[], None],
        first: Turn | None = None,
    ) -> None:
        """Take the steps of a lifecycle in a task.

        ``settle``: decides what becomes of the object, unless the steps did. The task's callback
        calls it, and not the task's own code: a task that is cancelled before its first step runs
        none of that, and the object would stay between two states for ever. ``first``: the turn
        that asks for the object, and waits for it. The first of these steps is made at once; an
        object that leaves and is called again must not do so, or they would nest without an end.
        """
        context = self.dispatcher.new_context()
        context.run(activation.begin, self.dispatcher, first)
        lifecycle = Lifecycle(activation, activation.turn, settle)
        name = f"{steps.__name__} {activation.table.type_name}/{activation.id}"
        if first is None:
            task = background.start(steps(), name, context=context)
        else:
            task = self.dispatcher.start_task(steps(), name, context)
        self._lifecycles[task] = lifecycle
        task.add_done_callback(self._note_end, context=context)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        lifecycle = self._lifecycles.pop(task, None)
        if not task.cancelled() and task.exception() is not None:
            logger.error("%s failed", task.get_name(), exc_info=task.exception())
        if lifecycle is None:
            del self._stuck[task]
        elif lifecycle.turn is not None and not lifecycle.turn.finished:
            lifecycle.settle()
        if self.draining:
            self._departed.set()

    def _leave(self, activation: Activation) -> None:
        """Take an object out of memory; its subscribers, and the turns that wait for it, look for
        it again.
        """
        text = f"{activation.object_id} left {self.address}"
        self.subscribers.end(activation.object_id, Unavailable(text))
        for turn in activation.leave_memory():
            standing = turn.table.mailboxes.get(turn.id)
            if standing is None and activation.wasted_lives >= MOST_WASTED_LIVES:
                turn.fail(_gone_again(activation))
            elif standing is None:
                self.activate(turn, activation.wasted_lives)
            else:
                turn.wait_for(standing)
                self.dispatcher.pump(standing)

    def _note_use(self, object_id: ObjectId) -> None:
        """The last subscriber of an object has left: until now the object was in use."""
        activation = self.dispatcher.tables[object_id.type_name].mailboxes.get(object_id.id)
        if activation is not None:
            activation.touch()

    # --- what takes too long ----------------------------------------------------------------------

    def sweep(self) -> None:
        """End what is overdue: calls, hooks, and claims and releases that do not return."""
        self.dispatcher.sweep()
        self.subscribers.tell_of_drops()
        self._deadlocks.look()
        now = self.dispatcher.now()
        for task, lifecycle in list(self._lifecycles.items()):
            hooks = lifecycle.activation.running_hooks
            if hooks is None or hooks.end == math.inf:
                self._look_at_storage(task, lifecycle, now)
                continue
            lifecycle.patience_ends, lifecycle.given_up = math.inf, False
            if hooks.end < now:
                self._end_overdue(task, lifecycle, hooks)

    def _look_at_storage(self, task: asyncio.Task[None], lifecycle: Lifecycle, now: float) -> None:
        """End a claim or a release that never returns; if it does not end when it is cancelled, go
        on without it. Its time begins with the first look, so that it costs the others nothing.
        """
        lifecycle.patience_ends = min(lifecycle.patience_ends, now + STORAGE_PATIENCE)
        if now < lifecycle.patience_ends:
            return
        if not lifecycle.given_up:
            logger.error("%s: the placements do not answer, and are given up", task.get_name())
            lifecycle.given_up = True
            lifecycle.patience_ends = now + ABORT_TIMEOUT
            task.cancel()
            return
        del self._lifecycles[task]
        self._stuck[task] = None
        lifecycle.settle()

    def _end_overdue(
        self, task: asyncio.Task[None], lifecycle: Lifecycle, hooks: RunningHooks
    ) -> None:
        """Cancel hooks that take too long; if they do not end then either, go on without them."""
        activation = lifecycle.activation
        if not hooks.overdue:
            logger.error(
                "%s: %s, and is cancelled; it waits at\n%s",
                activation.object_id,
                hooks.too_long,
                stack_of(task),
            )
            hooks.overdue = True
            hooks.end = self.dispatcher.now() + ABORT_TIMEOUT
            task.cancel()
            return
        logger.error(
            "%s: %s was cancelled and does not end; the node goes on without it",
            activation.object_id,
            hooks.name,
        )
        hooks.end = math.inf
        del self._lifecycles[task]
        self._stuck[task] = None
        self._begin(activation, activation.release, lifecycle.settle)

    # --- the lease --------------------------------------------------------------------------------

    def lease_has_moved(self) -> None:
        """The dispatcher admits turns until another moment now."""
        self._lease_has_moved.set()
        self._lease_has_moved.clear()

    async def wait_for_lease(self) -> None:
        """Return once the node holds its lease."""
        while not self.dispatcher.admits:
            await self._lease_has_moved.wait()

    # --- the end of the node ----------------------------------------------------------------------

    async def deactivate_all(self) -> None:
        """Let all objects finish what waits for them, run their shutdown hooks and release them.

        New ones are refused from now on.
        """
        self.draining = True
        for activation in self.dispatcher.mailboxes():
            while len(self._lifecycles) >= RELEASE_BATCH:
                await self._wait_for_a_departure()
            if not activation.closing:
                activation.leave("drain")
        while self.dispatcher.live:
            await self._wait_for_a_departure()

    async def _wait_for_a_departure(self) -> None:
        self._departed.clear()
        await self._departed.wait()

    def cancel_running(self) -> list[asyncio.Task[Any]]:
        """The lease is over: cancel all handlers and lifecycle hooks that wait for something else.
        Returns their tasks.
        """
        lifecycles = [
            task
            for task, lifecycle in self._lifecycles.items()
            if not (hooks := lifecycle.activation.running_hooks) or not hooks.waits_for_lease
        ]
        for task in lifecycles:
            task.cancel()
        return [*self.dispatcher.cancel_running(), *lifecycles]

    def _cancel_all(self) -> list[asyncio.Task[Any]]:
        """Cancel everything that runs for an object. Returns the tasks."""
        tasks: list[asyncio.Task[Any]] = [*self._lifecycles, *self._stuck, *self.notices.tasks]
        for activation in self.dispatcher.mailboxes():
            tasks += activation.owned_tasks
        for task in tasks:
            task.cancel()
        return [*self.dispatcher.cancel_running(), *tasks]

    async def abort(self) -> None:
        """Stop at once and save nothing: the node is not the owner of its objects any more."""
        self.draining = True
        self.dispatcher.set_lease(-math.inf)
        for activation in self.dispatcher.mailboxes():
            activation.fail()
        try:
            async with asyncio.timeout(ABORT_TIMEOUT):
                while tasks := self._cancel_all():
                    await asyncio.wait(tasks)
        except TimeoutError:
            logger.error(
                "handlers, hooks or tasks were cancelled and do not end: %s", self._cancel_all()
            )
        for activation in self.dispatcher.mailboxes():
            activation.refuse(Unavailable(f"{self.address} was stopped"))
        self._departed.set()


def _gone_again(activation: Activation) -> NotActivated:
    return NotActivated(
        f"{activation.object_id} has left the memory {activation.wasted_lives} times before it took"
        " a message: does one of its hooks call shutdown()?"
    )


def _refuse_to_send(*_: Any, **__: Any) -> NoReturn:
    raise Unavailable("the server does not run")
