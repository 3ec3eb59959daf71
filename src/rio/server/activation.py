"""One live object: how it comes to life and leaves, and its state.

The compiled core takes its turns.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rio._core.dispatch import Dispatcher, Mailbox, Turn, TypeTable, current
from rio.errors import (
    Deactivated,
    HandlerFailed,
    NotActivated,
    Redirected,
    RioError,
    StorageUnavailable,
    Unavailable,
)
from rio.identity import Address, ObjectId, type_name_of
from rio.logs import Logger
from rio.objects.message import Message, encode_event
from rio.objects.ref import ref
from rio.objects.tasks import Tasks
from rio.objects.timers import Timers
from rio.server import answers, states
from rio.server.ended import EndedActivation
from rio.server.limits import Limits
from rio.transport.protocol import text_of

if TYPE_CHECKING:
    from rio.contracts.state import StateStorage
    from rio.objects.app_data import AppData
    from rio.objects.lifecycle import LeavingReason, LifecycleHook
    from rio.objects.registry import RegisteredType
    from rio.objects.service_object import ServiceObject
    from rio.objects.state_codec import KeptFields
    from rio.server.idle import IdleObjects, Slot
    from rio.server.ownership import Ownership
    from rio.server.pubsub import Subscribers
    from rio.server.states import StateGroup

logger = Logger("rio.server")

T = TypeVar("T")


class NodeHost(Protocol):
    """What a live object needs of its node; :class:`rio.server.catalog.Catalog` is one."""

    dispatcher: Dispatcher
    ownership: Ownership
    state_groups: Mapping[str, Sequence[StateGroup]]
    """The states of each type, by its name."""
    subscribers: Subscribers
    app_data: AppData
    address: Address
    idle: IdleObjects
    send: Callable[..., Awaitable[Any]]
    tell: Callable[..., None]
    """The compiled methods of the node's client."""

    def note_redirected(self, turn: Turn) -> None:
        """The object that a call has asked for lives on another node."""
        ...

    async def wait_for_lease(self) -> None:
        """Return once the node holds its lease."""


class RunningHooks:
    """The hooks of one lifecycle, which run now or have ended, and the time that they have."""

    __slots__ = ("_limit", "_seconds", "end", "name", "overdue", "waits_for_lease")

    def __init__(self, begin: float, seconds: float, limit: str) -> None:
        self._seconds = seconds
        self._limit = limit
        self.end = begin + seconds
        """When they must have ended, on the clock of the dispatcher; infinity once they have."""
        self.name = ""
        """The hook that runs, or ran last."""
        self.overdue = False
        """They took too long, and were cancelled."""
        self.waits_for_lease = False
        """A save in one of them waits for the node's lease."""

    @property
    def too_long(self) -> str:
        return f"{self.name} took longer than {self._seconds:g} s ({self._limit})"


class Activation(Mailbox):
    """An object in memory, from the claim of its placement to its release."""

    __slots__ = (
        "_tasks",
        "_timers",
        "kept",
        "leaving",
        "limits",
        "node",
        "object_id",
        "published",
        "registered",
        "running_hooks",
        "save_failure",
        "saving",
        "send",
        "slot",
        "versions",
        "wasted_lives",
    )

    def __init__(
        self,
        table: TypeTable,
        id: str,
        registered: RegisteredType,
        limits: Limits,
        node: NodeHost,
        wasted_lives: int = 0,
    ) -> None:
        super().__init__(table, id)
        self.wasted_lives = wasted_lives
        """How often in a row the object has left before it took a turn."""
        self.registered = registered
        self.limits = limits
        self.object_id = ObjectId(table.type_name, id)
        self.leaving: LeavingReason | None = None
        """Why it leaves, once somebody has asked for that."""
        self.running_hooks: RunningHooks | None = None
        self.slot: Slot | None = None
        """Where the node looks for idle objects, and finds this one."""
        self.send = node.send
        """How the object sends: without a Python frame of the node's."""
        self.node = node
        self.saving: list[asyncio.Future[None]] | None = None
        """Who waits for the end of the save that runs; ``None`` if none does."""
        self.save_failure: BaseException | None = None
        """Why the last save, or a load, has dropped the object."""
        self.versions: dict[StateStorage, int] | None = None
        """The version of the object in each storage that was loaded."""
        self.kept: dict[str, KeptFields] | None = None
        """By the names of the states: what newer code has saved with them."""
        self.published = 0
        """How many events it has published."""
        self._tasks: Tasks | None = None
        self._timers: Timers | None = None

    # --- coming to life ---------------------------------------------------------------------------

    async def activate(self) -> None:
        """Claim the object, load it, and start the turns that wait; or answer why it cannot be."""
        first, turn = self.first_waiting, self.turn
        tracer = self.node.dispatcher.tracer
        span = None if tracer is None else tracer.enter("rio.activate", first)
        try:
            claim = self.node.ownership.claim(
                self.object_id, "" if first is None else first.method.name
            )
            self.token = await (claim if tracer is None else tracer.around(claim, "rio.claim"))
            if turn is not None and turn.finished:  # the node has waited no longer for the claim
                return
            if not self.node.dispatcher.admits:
                raise Unavailable(
                    f"{self.address} lost its lease while it claimed {self.object_id}"
                )
            await self._load()
        except RioError as error:
            if span is not None:
                span.failed(error)
            if isinstance(error, Redirected) and first is not None:
                self.node.note_redirected(first)
            self.refuse(error)
        else:
            if span is not None:
                span.end()
            self.running_hooks = None
            self.wasted_lives = self.wasted_lives + 1 if self.closing else 0
            self.node.idle.add(self)
            self.start(self.node.dispatcher)
        finally:
            if span is not None:
                span.end()

    def refuse(self, error: RioError) -> None:
        """Leave the memory, and answer the turns that wait."""
        for turn in self.leave_memory():
            turn.fail(error)

    def give_up(self) -> None:
        """Settle an activation whose steps were cut off: nobody knows how far they came."""
        hooks = self.running_hooks
        self.refuse(
            NotActivated(f"{self.object_id} could not be activated: {hooks.too_long}")
            if hooks is not None and hooks.overdue
            else Unavailable(
                f"{self.object_id} was not loaded: {self.address} stopped meanwhile, or the storage"
                " did not answer"
            )
        )

    async def _load(self) -> None:
        """Make the instance and bring it to life.

        :raises RioError: the answer, if that failed; the claim is given back by then.
        """
        try:
            instance = self.instance = self._make_instance()
            instance.id = self.id
            instance.object_id = self.object_id
            instance._activation = self
            if self.registered.has_loading_steps:
                await self._within("activate_timeout", self._run_loading_hooks())
        except Exception as error:
            answer = answers.to_failed_load(self.object_id, error, superseded=self.superseded)
            if isinstance(answer, NotActivated):
                logger.error("%s could not be activated", self.object_id, exc_info=error)
        else:
            if not self.failed:
                return
            answer = Unavailable(
                f"{self.object_id} may not have saved its state while it was loaded"
            )
        await self.release()
        raise answer

    def _make_instance(self) -> ServiceObject:
        cls = self.registered.cls
        try:
            return cls()
        except Exception:
            raise
        except BaseException as error:  # it would end the event loop, or look like a cancellation
            raise HandlerFailed(f"{cls.__name__}.__init__ raised {text_of(error)}") from error

    async def _run_loading_hooks(self) -> None:
        registered = self.registered
        hooks = registered.hooks
        if hooks.before_load is not None:
            await self._run(hooks.before_load)
        if hooks.load is not None:
            await self._run(hooks.load)
        elif registered.managed_states:
            await self._guard("load", self.load_state)
        if hooks.after_load is not None:
            await self._run(hooks.after_load)

    # --- leaving ----------------------------------------------------------------------------------

    def leave(self, reason: LeavingReason) -> None:
        """Ask for the deactivation, which starts when the running turn has ended.

        The first reason counts.
        """
        self.leaving = self.leaving or reason
        self.closing = True
        self.node.dispatcher.pump(self)

    def end_soon(self, *, force: bool) -> None:
        """Somebody asks for the deactivation. ``force``: the running turn does not go on."""
        self.leave("asked")
        turn = self.turn
        if force and turn is not None:
            turn.cut_short()

    def drop(self, *, superseded: bool = False) -> None:
        """Start no further turn, and leave the memory once the running turn has ended. The instance
        can do nothing any more.

        ``superseded``: another node took the object over.
        """
        self.superseded = self.superseded or superseded
        self.fail()
        self.closing = True
        self.node.dispatcher.pump(self)

    def fail(self) -> None:
        """The memory may be wrong, or belongs to another node: nothing may use it any more."""
        self.failed = True
        self._end()

    async def deactivate(self) -> None:
        """Run the shutdown hooks, unless the memory may be wrong, and give the claim back."""
        turn = self.turn
        assert turn is not None
        try:
            if not self.failed:
                self._end(hooks_follow=True)
                await self._end_tasks()
                await self._within("deactivate_timeout", self._run_shutdown_hooks())
        except Exception as error:
            logger.error("the shutdown hook of %s failed", self.object_id, exc_info=error)
        finally:
            if not turn.finished:  # else the node has released it, and may have claimed it anew
                await self.release()

    async def _run_shutdown_hooks(self) -> None:
        hooks = self.registered.hooks
        if hooks.before_shutdown is not None:
            try:
                await self._run(hooks.before_shutdown)
            except Exception as error:  # shutdown is what comes last at each deactivation
                logger.error("the shutdown hook of %s failed", self.object_id, exc_info=error)
        self.shutting_down = True
        if hooks.shutdown is not None:
            await self._run(hooks.shutdown)

    def tell(
        self, object_type: Any, id: str, message: Any, /, *, timeout: float | None = None
    ) -> None:
        self.node.tell(object_type, id, message, timeout=timeout)

    async def release(self) -> None:
        """End the tasks of the object, and give the claim back."""
        self._end()
        await self._end_tasks()
        if self.token and not self.superseded:
            await self.node.ownership.release(self.object_id, self.token)

    def leave_memory(self) -> list[Turn]:
        """Leave the table. Returns the turns that waited."""
        self._end()
        self.node.idle.remove(self)
        return self.remove()

    def _end(self, *, hooks_follow: bool = False) -> None:
        """Let nothing that kept the instance use it any more, but for the shutdown hooks."""
        ended = EndedActivation(self.object_id, self if hooks_follow else None)
        if self.instance is not None:
            self.instance._activation = ended
        self.send = ended.send
        self.ended = True
        if self._timers is not None:
            self._timers.end()
        if self._tasks is not None:
            self._tasks.cancel()

    async def _end_tasks(self) -> None:
        if self._tasks is not None:
            await self._tasks.end()

    # --- the hooks --------------------------------------------------------------------------------

    async def _within(self, limit: str, steps: Coroutine[Any, Any, None]) -> None:
        """Run hooks, which the node cancels when their time is over.

        If they do not end then either, the node waits no longer: it ends their turn, and settles
        what becomes of the object. So nothing is left to do here if they end at last.

        :raises TimeoutError: they were cancelled.
        """
        turn = self.turn
        assert turn is not None
        hooks = RunningHooks(self.node.dispatcher.now(), getattr(self.limits, limit), limit)
        self.running_hooks = hooks
        try:
            await steps
        finally:
            if turn.finished:
                raise asyncio.CancelledError
            hooks.end = math.inf
            if hooks.overdue and not _is_cancelled_by_others():
                raise TimeoutError(hooks.too_long)

    def _run(self, hook: LifecycleHook) -> Awaitable[None]:
        return self._guard(hook.name, hook.run, self.instance, self.node.app_data)

    async def _guard(
        self, name: str, function: Callable[..., Awaitable[None]], *arguments: Any
    ) -> None:
        """Run a hook, or what stands for one: ``function(*arguments)``.

        :raises HandlerFailed: it raised what is no ``Exception``.
        """
        assert self.running_hooks is not None
        self.running_hooks.name = name
        try:
            await function(*arguments)
        except SystemExit as error:  # it would end the event loop
            raise HandlerFailed(f"the hook {name} called sys.exit({error.code!r})") from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise HandlerFailed(f"the hook {name} was cancelled by something it awaited") from error
        except (Exception, GeneratorExit):  # the latter closes a hook that nobody waits for
            raise
        except BaseException as error:
            raise HandlerFailed(f"the hook {name} raised {text_of(error)}") from error

    # --- what the object's own methods need -------------------------------------------------------

    @property
    def app_data(self) -> AppData:
        return self.node.app_data

    @property
    def address(self) -> Address:
        return self.node.address

    def ref(self, object_type: type[T], id: str, /) -> T:
        return ref(self, object_type, id)

    def publish(self, event: Message[Any], /) -> None:
        name = type_name_of(type(event))
        self.node.subscribers.publish(self.object_id, name, encode_event(event))
        self.published += 1
        if self.node.dispatcher.tracer is not None:
            _note_in_trace(name)

    def pass_on(self, type_name: str, payload: bytes) -> None:
        """Publish an event that comes from outside of the object."""
        self.node.subscribers.publish(self.object_id, type_name, payload)
        self.published += 1

    async def shutdown(self) -> None:
        """Ask for the object's deactivation, which starts when the running turn has ended."""
        self.leave("asked")

    def keep_alive(self, seconds: float) -> None:
        if not 0 <= seconds < math.inf:
            raise ValueError(f"keep_alive() takes a finite number of seconds, got {seconds!r}")
        self.keep_until = max(self.keep_until, self.node.dispatcher.now() + seconds)

    @property
    def tasks(self) -> Tasks:
        if self._tasks is None:
            self._tasks = Tasks(self, self.node.dispatcher.loop)
        return self._tasks

    @property
    def timers(self) -> Timers:
        if self._timers is None:
            self._timers = Timers(self, self.node.dispatcher)
        return self._timers

    # --- what its timers and tasks need -----------------------------------------------------------

    @property
    def owned_tasks(self) -> list[asyncio.Task[Any]]:
        """Its tasks that have not ended."""
        return [] if self._tasks is None else self._tasks.running

    @property
    def is_kept_alive(self) -> bool:
        """Whether a timer or a task keeps the object in memory."""
        return (self._tasks is not None and self._tasks.keep_alive) or (
            self._timers is not None and self._timers.keep_alive
        )

    def check_owning(self) -> None:
        """:raises Deactivated: the object leaves, and can own nothing more."""
        if self.ended:
            raise Deactivated(
                f"{self.object_id} leaves the memory: its timers and tasks end before its shutdown "
                "hooks, and it can have no new ones"
            )

    def touch(self) -> None:
        """The object was in use until now."""
        self.used_at = self.node.dispatcher.now()

    def task_failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        """Tell the object about a task of its that has failed."""
        try:
            self.instance.task_failed(task, error)
        except BaseException as problem:  # it would end the event loop
            logger.error("task_failed of %s failed", self.object_id, exc_info=problem)

    # --- state ------------------------------------------------------------------------------------

    def load_state(self, *attributes: str) -> Coroutine[Any, Any, None]:
        return states.load(self, attributes)

    def save_state(self, *attributes: str) -> Coroutine[Any, Any, None]:
        return states.save(self, attributes)

    def check_use(self, what: str) -> None:
        """:raises Deactivated: the running code cannot use the object any more."""
        if self.ended:
            self.instance._activation.check(what)

    async def require_lease(self) -> None:
        """Make sure that the node holds its lease; a shutdown hook waits for it.

        :raises StorageUnavailable: it does not.
        """
        if self.node.dispatcher.admits:
            return
        if self.failed or not self.ended:
            raise StorageUnavailable(f"{self.object_id} was not saved: the node has lost its lease")
        hooks = self.running_hooks
        assert hooks is not None
        hooks.waits_for_lease = True
        try:
            await self.node.wait_for_lease()
        finally:
            hooks.waits_for_lease = False


def _note_in_trace(event: str) -> None:
    """The turn that runs has published an event."""
    turn = current()
    if turn is not None and turn.span is not None:
        turn.span.note("rio.publish", event=event)


def _is_cancelled_by_others() -> bool:
    """Whether somebody else wants the task to end that the node has cancelled."""
    task = asyncio.current_task()
    return task is not None and task.uncancel() > 0


def _is_cancelled() -> bool:
    """Whether somebody wants the running task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
