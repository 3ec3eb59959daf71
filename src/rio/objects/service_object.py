"""What users subclass: an object with an identity, handlers, managed state and a lifecycle."""

from __future__ import annotations

import contextlib
from typing import Any, ClassVar, Protocol, TypeVar

from rio import type_hints
from rio.errors import BadRegistration, NotAttached
from rio.identity import MAX_TYPE_NAME_BYTES, Address, ObjectId, check_name
from rio.objects.app_data import AppData
from rio.objects.handler import Handler, collect_handlers
from rio.objects.lifecycle import check_hooks, default_hook
from rio.objects.managed_state import (
    ManagedState,
    collect_managed_states,
)
from rio.objects.message import Message
from rio.objects.sender import Carrier, Sender

T = TypeVar("T")


class ActivationContext(Carrier, Protocol):
    """What the runtime attaches to a live object: everything that the object's own methods need of
    it.
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

    def ref(self, object_type: type[T], id: str, /) -> T: ...
    def publish(self, event: Message[Any], /) -> None: ...
    async def save_state(self, *attributes: str) -> None: ...
    async def load_state(self, *attributes: str) -> None: ...
    async def shutdown(self) -> None: ...


class ServiceObject(Sender):
    """An object that lives somewhere in the cluster, is found by its type and id, and handles one
    message at a time.

    Subclass it, mark methods with :func:`rio.handler` and fields with :func:`rio.managed_state`.
    The runtime makes the instance, by calling the class without arguments, when the first message
    for its id arrives; it runs :meth:`before_load`, :meth:`load` and :meth:`after_load`, then the
    handlers, and :meth:`before_shutdown` and :meth:`shutdown` before it lets go of it. An exception
    in one of the first three fails the activation.

    ``class Room(rio.ServiceObject, type_name="chat.Room")`` sets the name by which the type is
    addressed; by default it is the class's.

    :raises BadRegistration: a handler, a managed state or a hook in the class body breaks a rule;
    the text says what to change.
    """

    id: str
    """Which object of its type this is. There before any hook runs."""
    object_id: ObjectId
    """Type name and id."""

    _activation: ActivationContext | None = None

    __rio_type_name__: ClassVar[str]
    __rio_handlers__: ClassVar[dict[str, Handler[Any, Any, Any]]] = {}
    __rio_managed_states__: ClassVar[tuple[ManagedState, ...]] = ()
    __rio_reference_class__: ClassVar[type | None] = None
    """The class of the references to objects of this class; :mod:`rio.objects.ref` makes it."""

    def __init_subclass__(cls, *, type_name: str | None = None) -> None:
        super().__init_subclass__()
        cls.__rio_type_name__ = cls.__name__ if type_name is None else type_name
        check_name(
            f"type name of {cls.__name__}",
            cls.__rio_type_name__,
            MAX_TYPE_NAME_BYTES,
            BadRegistration,
        )
        cls.__rio_handlers__ = collect_handlers(cls)
        cls.__rio_managed_states__ = collect_managed_states(cls)
        _check_names(cls)
        check_hooks(cls)
        _read_what_can_be_read(cls)

    # --- lifecycle: override what you need; each may take (self, app: rio.AppData)

    @default_hook
    async def before_load(self, *args: Any, **kwargs: Any) -> None:
        """Runs first. Managed state is not there yet.

        Takes ``(self)`` or ``(self, app: rio.AppData)``, as the other hooks do.
        """

    @default_hook
    async def load(self, *args: Any, **kwargs: Any) -> None:
        """Loads all managed states.

        Override it to load in another way, or something else as well.
        """
        await self.load_state()

    @default_hook
    async def after_load(self, *args: Any, **kwargs: Any) -> None:
        """Runs last before the first message."""

    @default_hook
    async def before_shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Runs first when the object is deactivated: the server drains, the object was idle, or
        :meth:`shutdown` was called.
        """

    @default_hook
    async def shutdown(self, *args: Any, **kwargs: Any) -> None:
        """Call it to ask for this object's deactivation, which starts after the current turn.

        Override it to say what is done last at every deactivation; calling ``self.shutdown()`` asks
        for it all the same.
        """
        context = self._context()
        if not context.shutting_down:
            await context.shutdown()

    # --- the world outside ------------------------------------------------------------------------

    @property
    def app_data(self) -> AppData:
        """What the application gave to its objects."""
        return self._context().app_data

    @property
    def token(self) -> int:
        """The fencing token of this activation: larger than that of any activation of this object
        before it.

        Give it to a resource of your own that compares tokens, so that a late write of an older
        activation is refused there.
        """
        return self._context().token

    @property
    def address(self) -> Address:
        """The server on which the object lives."""
        return self._context().address

    def ref(self, object_type: type[T], id: str, /) -> T:
        """A reference to another object: ``await self.ref(Account, "ada").deposit(Deposit(1))``."""
        return self._context().ref(object_type, id)

    def publish(self, event: Message[Any], /) -> None:
        """Hand an event to all who subscribe to this object. It does not wait for them."""
        self._context().publish(event)

    async def save_state(self, *attributes: str) -> None:
        """Write these managed states, or all, durably.

        :raises Superseded: another activation of this object has taken over; nothing was written.
        :raises StorageUnavailable: it is not known whether it was written.
        """
        await self._context().save_state(*attributes)

    async def load_state(self, *attributes: str) -> None:
        """Read these managed states, or all, again; what is not stored starts with its defaults.

        :raises StorageUnavailable: the storage did not answer.
        :raises StateCorrupt: what is stored does not decode.
        """
        await self._context().load_state(*attributes)

    def _context(self) -> ActivationContext:
        if self._activation is None:
            raise NotAttached(
                f"{self!r} is not active: no server has brought this instance to life (rio.testing "
                "can do it in a test)"
            )
        return self._activation

    _carrier = _context

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {getattr(self, 'id', '(no id)')!r}>"


# --- what a class says ----------------------------------------------------------------------------


def _check_names(cls: type[ServiceObject]) -> None:
    """Refuse handlers and states whose name the base class needs itself."""
    for name in (
        *cls.__rio_handlers__,
        *(name for name, value in cls.__dict__.items() if isinstance(value, ManagedState)),
    ):
        if hasattr(ServiceObject, name) or name in ("id", "object_id"):
            raise BadRegistration(
                f"{type_hints.full_name(cls)}.{name}: {name!r} is taken by rio.ServiceObject, "
                "choose another name"
            )


def _read_what_can_be_read(cls: type[ServiceObject]) -> None:
    """Read the annotations now, while names that are local to a function exist; names that do not
    exist yet are read at registration.
    """
    around = type_hints.names_around(cls)
    local_names = ({**around, **vars(cls)}, around)
    for handler in cls.__rio_handlers__.values():
        with contextlib.suppress(NameError):
            handler.try_resolve(local_names)
    for state in cls.__rio_managed_states__:
        with contextlib.suppress(NameError):
            state.field(local_names)
