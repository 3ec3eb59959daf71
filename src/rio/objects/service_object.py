"""The base class of users' objects, which have an identity, handlers, state and a lifecycle."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Iterable
from typing import Any, ClassVar, Protocol, TypeVar

from msgspec import UNSET, UnsetType

from rio import type_hints
from rio.errors import BadRegistration, NotAttached
from rio.identity import MAX_TYPE_NAME_BYTES, Address, ObjectId, check_name, default_name
from rio.logs import Logger
from rio.objects.app_data import AppData
from rio.objects.attributes import check_attributes
from rio.objects.filters import Filter, check_filters
from rio.objects.handler import Handler, collect_handlers, index_by_message_name
from rio.objects.lifecycle import (
    LeavingReason,
    LifecycleLimits,
    check_hooks,
    check_task_failed,
    default_hook,
)
from rio.objects.managed_state import ManagedState, collect_managed_states
from rio.objects.message import Message
from rio.objects.sender import Carrier, Sender
from rio.objects.tasks import Tasks
from rio.objects.timers import Timers

logger = Logger("rio.objects")

T = TypeVar("T")


class ActivationContext(Carrier, Protocol):
    """The runtime's side of a live object, to which the object's own methods turn.

    :class:`ServiceObject` says what each of them does.
    """

    @property
    def app_data(self) -> AppData: ...
    @property
    def token(self) -> int: ...
    @property
    def address(self) -> Address: ...
    @property
    def shutting_down(self) -> bool:
        """True while the runtime runs the object's :meth:`ServiceObject.shutdown` hook."""
        ...

    @property
    def leaving(self) -> LeavingReason | None: ...
    @property
    def tasks(self) -> Tasks: ...
    @property
    def timers(self) -> Timers: ...
    def keep_alive(self, seconds: float) -> None: ...

    def ref(self, object_type: type[T], id: str, /) -> T: ...
    def publish(self, event: Message[Any], /) -> None: ...
    def save_state(self, *attributes: str) -> Coroutine[Any, Any, None]: ...
    def load_state(self, *attributes: str) -> Coroutine[Any, Any, None]: ...
    async def shutdown(self) -> None:
        """Ask for the object's deactivation."""


class ServiceObject(Sender):
    """An object with an identity, which lives on one server of a cluster at a time.

    Subclass it, mark methods with :func:`rio.handler` and fields with :func:`rio.managed_state`,
    and host the class with a :class:`rio.Server`::

        class Account(rio.ServiceObject):
            ledger: Ledger = rio.managed_state()

            @rio.handler
            async def deposit(self, message: Deposit) -> Balance: ...

    Clients find the object by its type and id. It handles one message at a time. You never make an
    instance: when the first message for an id arrives, a server calls the class without arguments,
    and runs :meth:`before_load`, :meth:`load` and :meth:`after_load`; then come the handlers. The
    server runs :meth:`before_shutdown` and :meth:`shutdown` before it drops the instance. If one of
    the first three hooks raises an exception, the activation fails, and the caller gets
    :class:`rio.errors.NotActivated`.

    ``self.id`` is the id, 1 to 512 bytes of UTF-8, and ``self.object_id`` is the
    :class:`rio.ObjectId`; both are there before any hook runs, but not yet in ``__init__``.

    ``class Room(rio.ServiceObject, type_name="chat.Room")`` sets the name of the type, 1 to 128
    bytes of UTF-8; by default it is the name of the class, behind the ``__rio_namespace__`` of its
    module if there is one. Clients send it and storages keep it, so give a name if you may ever
    rename the class.

    ``class Room(rio.ServiceObject, idle_after=60.0)`` sets for the class what
    :class:`rio.ServerConfig` sets for a server: ``idle_after``, ``activate_timeout`` and
    ``deactivate_timeout``, each in seconds. With ``idle_after=None`` the objects stay in memory.
    Subclasses inherit these.

    ``class Room(rio.ServiceObject, filters=[audit])`` has filters run around each of its handlers,
    within the turn: see :data:`rio.Filter`. The filters of a base class are around those of its
    subclasses.

    :raises BadRegistration: (when the class is made) a handler, a managed state, a hook, a filter,
        a limit or the type name breaks a rule, a decorator covers a handler, or an attribute can
        change and would be shared by all objects; the text says what to change.
    """

    id: str
    object_id: ObjectId

    _activation: ActivationContext | None = None

    __rio_type_name__: ClassVar[str]
    __rio_handlers__: ClassVar[dict[str, Handler[Any, Any, Any]]] = {}
    __rio_added_handlers__: ClassVar[dict[str, Handler[Any, Any, Any]]]
    """What registries have added to this very class, by name; references have them too."""
    __rio_managed_states__: ClassVar[tuple[ManagedState, ...]] = ()
    __rio_limits__: ClassVar[LifecycleLimits] = LifecycleLimits()
    __rio_filters__: ClassVar[tuple[Filter, ...]] = ()
    __rio_reference_class__: ClassVar[type | None] = None
    """The class of the references to objects of this class; :mod:`rio.objects.ref` makes it."""

    def __init_subclass__(
        cls,
        *,
        type_name: str | None = None,
        idle_after: float | UnsetType | None = UNSET,
        activate_timeout: float | UnsetType = UNSET,
        deactivate_timeout: float | UnsetType = UNSET,
        filters: Iterable[Filter] = (),
    ) -> None:
        super().__init_subclass__()
        cls.__rio_limits__ = cls.__rio_limits__.overridden_by(
            cls,
            idle_after=idle_after,
            activate_timeout=activate_timeout,
            deactivate_timeout=deactivate_timeout,
        )
        own = check_filters(type_hints.full_name(cls), filters, BadRegistration)
        cls.__rio_filters__ = (*cls.__rio_filters__, *own)
        name = default_name(cls.__name__, cls.__module__) if type_name is None else type_name
        cls.__rio_type_name__ = name
        check_name(f"type name of {cls.__name__}", name, MAX_TYPE_NAME_BYTES, BadRegistration)
        cls.__rio_handlers__ = collect_handlers(cls)
        cls.__rio_managed_states__ = collect_managed_states(cls)
        _check_names(cls)
        check_attributes(cls)
        check_hooks(cls)
        check_task_failed(cls)
        _read_annotations_early(cls)

    # --- lifecycle --------------------------------------------------------------------------------

    @default_hook
    async def before_load(self, *args: Any, **kwargs: Any) -> None:
        """The first hook of an activation. Managed state is not there yet.

        Override it as ``async def`` with the parameters ``(self)`` or ``(self, app: rio.AppData)``.
        An exception fails the activation.
        """

    @default_hook
    async def load(self, *args: Any, **kwargs: Any) -> None:
        """The hook that loads all managed states.

        Override it, with the parameters of :meth:`before_load`, to load other things as well, and
        ``await self.load_state()`` in it: nothing else loads the states. An exception fails the
        activation.
        """
        await self.load_state()

    @default_hook
    async def after_load(self, *args: Any, **kwargs: Any) -> None:
        """The last hook of an activation; the first message comes next.

        Override it, with the parameters of :meth:`before_load`. An exception fails the activation.
        All hooks of an activation together have ``activate_timeout`` seconds.
        """

    @default_hook
    async def before_shutdown(self, *args: Any, **kwargs: Any) -> None:
        """The first hook of a deactivation; no handler runs any more.

        Override it, with the parameters of :meth:`before_load`. The server logs an exception, and
        deactivates the object all the same. A failed activation ends without it, and so does a
        killed process: save what must survive in the handler that acknowledges it.

        :attr:`leaving` says why the object leaves. Its timers and tasks have ended. It and
        :meth:`shutdown` together have ``deactivate_timeout`` seconds; while the server has lost its
        lease, :meth:`save_state` waits here for the lease to come back.
        """

    @default_hook
    async def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Ask for the deactivation of this object, which starts after the current turn.

        Override it, with the parameters of :meth:`before_load`, and the override is the last hook
        of a deactivation. ``await self.shutdown()`` still asks for the deactivation.

        :raises NotAttached: no server has activated this instance.
        :raises Deactivated: the object has left already.
        """
        context = self._context()
        if not context.shutting_down:
            await context.shutdown()

    def task_failed(self, task: asyncio.Task[Any], error: BaseException) -> None:
        """A task of :attr:`tasks` has raised an exception. By default that is logged.

        Override it as a plain ``def``. It runs outside of any turn.
        """
        logger.error("%s failed", task.get_name(), exc_info=error)

    def object_weight(self) -> int:
        """The bytes of memory that the object takes besides its managed states, about; 0 by
        default.

        Override it if the object keeps much in its attributes. A server with a ``max_memory`` lets
        heavy objects go first.
        """
        return 0

    # --- what the object can use ------------------------------------------------------------------

    @property
    def app_data(self) -> AppData:
        """The values that the application gave to its objects, one for each type.

        :raises NotAttached: no server has activated this instance.
        """
        return self._context().app_data

    @property
    def token(self) -> int:
        """The fencing token of this activation, larger than that of any earlier activation.

        Give it to a resource of your own that compares tokens. Then that resource can refuse a late
        write of an earlier activation.

        :raises NotAttached: no server has activated this instance.
        """
        return self._context().token

    @property
    def address(self) -> Address:
        """The address of the server on which the object lives.

        :raises NotAttached: no server has activated this instance.
        """
        return self._context().address

    @property
    def leaving(self) -> LeavingReason | None:
        """Why the object leaves the memory, in its shutdown hooks; else ``None``.

        ``"asked"``: somebody has called :meth:`shutdown` or sent the admin command. ``"idle"``: no
        use for ``idle_after`` seconds. ``"memory"``: the server has too many objects, or too little
        memory. ``"drain"``: the server stops. ``"moved"``: another node takes the object.
        ``"upgrade"``: a node with newer code takes it. ``"deleted"``: its state was deleted.

        :raises NotAttached: no server has activated this instance.
        :raises Deactivated: the object has left already.
        """
        return self._context().leaving

    @property
    def tasks(self) -> Tasks:
        """The tasks that end with this activation: ``self.tasks.create(self.watch())``.

        :raises NotAttached: no server has activated this instance.
        :raises Deactivated: the object has left already.
        """
        return self._context().tasks

    @property
    def timers(self) -> Timers:
        """What sends this object messages later: ``self.timers.every("flush", 5.0, Flush())``.

        :raises NotAttached: no server has activated this instance.
        :raises Deactivated: the object has left already.
        """
        return self._context().timers

    def keep_alive(self, seconds: float) -> None:
        """Keep the object in memory for at least so many seconds from now, also if it is idle.

        A server that drains lets it go all the same.

        :raises ValueError: ``seconds`` is not a finite number of 0 or more.
        :raises NotAttached: no server has activated this instance.
        :raises Deactivated: the object has left already.
        """
        self._context().keep_alive(seconds)

    def ref(self, object_type: type[T], id: str, /) -> T:
        """A reference to another object: ``await self.ref(Account, "ada").deposit(Deposit(1))``.

        It sends nothing until one of its handlers is called. ``id`` has 1 to 512 bytes of UTF-8.

        :raises BadIdentity: ``id`` is not a string, is empty or is too long.
        :raises TypeError: ``object_type`` is not a subclass of :class:`rio.ServiceObject`.
        :raises NotAttached: no server has activated this instance.
        """
        return self._context().ref(object_type, id)

    def publish(self, event: Message[Any], /) -> None:
        """Hand an event to all subscribers of this object, without waiting for them.

        An event is lost if nobody listens. Subscribers to whose connection more than 1 MiB is
        unsent lose it too, and are told so by a :class:`rio.errors.Gap`. The encoded event has to
        fit into the frame limit of the server, 4 MiB by default.

        :raises BadMessage: the event holds a value that MessagePack cannot carry, or that
            subscribers would read as another one. The text names the field.
        :raises TypeError: the event is no :class:`rio.Message`.
        :raises FrameTooLarge: the event is larger than the frame limit.
        :raises NotAttached: no server has activated this instance.
        """
        self._context().publish(event)

    async def save_state(self, *attributes: str) -> None:
        """Save the managed states of these names, or all; return when they are durable.

        They are written together or not at all; states that name a storage of their own are
        written there, one storage after the other. If an error of the storage or a cancellation
        leaves open whether all were written, the object is dropped from
        memory when the turn has ended, and its next message loads it again.

        :raises Superseded: another activation of the object has taken over, and the storage has
            refused the write.
        :raises StorageUnavailable: the storage did not answer; it may have written or not.
        :raises BadState: a state holds a value that cannot be saved, or would be loaded as another
            one. It was not written.
        :raises StateTooLarge: a state takes more bytes than the ``state_limit`` of the server. It
            was not written.
        :raises AttributeError: the class has no managed state, or none of this name, or the state
            was not loaded.
        :raises NotAttached: no server has activated this instance.
        """
        await self._context().save_state(*attributes)

    async def load_state(self, *attributes: str) -> None:
        """Load the managed states of these names, or all, from the storage.

        A state that is not stored starts with its defaults. Changes since the last save are lost.

        :raises StorageUnavailable: the storage did not answer.
        :raises StateCorrupt: the stored bytes do not decode.
        :raises Superseded: another activation of the object has taken over.
        :raises AttributeError: the class has no managed state of this name.
        :raises NotAttached: no server has activated this instance.
        """
        await self._context().load_state(*attributes)

    def _context(self) -> ActivationContext:
        if self._activation is None:
            raise NotAttached(
                f"{self!r} is not active: no server has activated this instance. Send the object a"
                " message by a client instead; in a test, by that of a rio.testing.LocalCluster"
            )
        return self._activation

    _carrier = _context

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'id', '(no id)')!r}>"


# --- what a class declares ------------------------------------------------------------------------


def _check_names(cls: type[ServiceObject]) -> None:
    """Make sure that no handler and no state has a name that the base class needs itself.

    :raises BadRegistration: one has.
    """
    for name in (
        *cls.__rio_handlers__,
        *(name for name, value in cls.__dict__.items() if isinstance(value, ManagedState)),
    ):
        check_name_is_free(cls, name)


def check_name_is_free(cls: type[ServiceObject], name: str) -> None:
    """Make sure that the base class does not need an attribute of this name itself.

    :raises BadRegistration: it does.
    """
    if hasattr(ServiceObject, name) or name in ("id", "object_id"):
        raise BadRegistration(
            f"{type_hints.full_name(cls)}.{name}: {name!r} is taken by rio.ServiceObject,"
            " choose another name"
        )


def _read_annotations_early(cls: type[ServiceObject]) -> None:
    """Read the annotations now, while the names that are local to a function exist.

    An annotation with a name that is not defined yet is read at registration.

    :raises BadRegistration: a handler or a state breaks a rule, or two handlers answer one message.
    """
    around = type_hints.names_around(cls)
    local_names = ({**around, **vars(cls)}, around)
    for handler in cls.__rio_handlers__.values():
        with contextlib.suppress(NameError):
            handler.try_resolve(local_names)
    index_by_message_name(cls, (each for each in cls.__rio_handlers__.values() if each.is_resolved))
    for state in cls.__rio_managed_states__:
        with contextlib.suppress(NameError):
            state.field(local_names)
