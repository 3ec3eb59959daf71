"""One live object: its lifecycle and its state. Its turns are taken in the compiled core."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from rio._core import dispatch
from rio.contracts.state import StateStorage
from rio.errors import (
    HandlerFailed,
    StateCorrupt,
    StateNotFound,
    StorageError,
    StorageUnavailable,
    Superseded,
)
from rio.identity import Address, ObjectId, type_name_of
from rio.objects.managed_state import ManagedStateField
from rio.objects.message import Message, encode_message
from rio.objects.ref import ref
from rio.transport import codec

if TYPE_CHECKING:
    from rio.objects.app_data import AppData
    from rio.objects.lifecycle import LifecycleHook
    from rio.objects.registry import RegisteredType

T = TypeVar("T")


class ActivationHost:
    """What activations need of their node; :class:`rio.server.service.Service` is it."""

    dispatcher: dispatch.Dispatcher
    app_data: AppData
    address: Address
    state: StateStorage
    send: Callable[..., Awaitable[Any]]
    """The compiled ``send`` of the node's client."""

    def publish(self, object_id: ObjectId, type_name: str, payload: bytes) -> None:
        raise NotImplementedError


class Activation(dispatch.Mailbox):
    """An object in memory, from the claim of its placement to its release."""

    __slots__ = (
        "_host",
        "_saving",
        "_versions",
        "failed",
        "object_id",
        "registered",
        "send",
        "shutting_down",
        "superseded",
        "token",
    )

    def __init__(
        self, table: dispatch.TypeTable, id: str, registered: RegisteredType, host: ActivationHost
    ) -> None:
        super().__init__(table, id)
        self.registered = registered
        self.object_id = ObjectId(table.type_name, id)
        self.token = 0
        """The fencing token of the claim."""
        self.failed = False
        """Its memory is not to be trusted any more: it is dropped without running its shutdown
        hooks.
        """
        self.superseded = False
        """Another activation owns the object: there is no placement to release."""
        self.shutting_down = False
        """Its shutdown hook runs."""
        self.send = host.send
        """How the object sends: without a Python frame of the node's."""
        self._host = host
        self._saving: asyncio.Event | None = None
        self._versions: dict[str, int] = {}

    # --- lifecycle --------------------------------------------------------------------------------

    async def load(self) -> None:
        """Make the instance and bring it to life.

        :raises Exception: what a hook raised.
        """
        instance = self.instance = self.registered.cls()
        instance.id = self.id
        instance.object_id = self.object_id
        instance._activation = self
        hooks = self.registered.hooks
        for hook in (hooks.before_load, hooks.load, hooks.after_load):
            if hook is not None:
                await self._run(hook)

    async def unload(self) -> None:
        """Run the shutdown hooks.

        :raises Exception: what a hook raised.
        """
        hooks = self.registered.hooks
        if hooks.before_shutdown is not None:
            await self._run(hooks.before_shutdown)
        self.shutting_down = True
        if hooks.shutdown is not None:
            await self._run(hooks.shutdown)

    async def _run(self, hook: LifecycleHook) -> None:
        try:
            await hook.run(self.instance, self._host.app_data)
        except SystemExit as error:  # it would end the event loop
            raise HandlerFailed(f"the hook {hook.name} called sys.exit({error.code!r})") from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise HandlerFailed(
                f"the hook {hook.name} was cancelled by something it awaited"
            ) from error

    def drop(self, *, superseded: bool = False) -> None:
        """Let no further turn start; the memory is dropped now, or once the running turn has ended."""
        self.failed = True
        self.superseded = self.superseded or superseded
        self.closing = True
        self._host.dispatcher.pump(self)

    # --- what the object's own methods need -------------------------------------------------------

    @property
    def app_data(self) -> AppData:
        return self._host.app_data

    @property
    def address(self) -> Address:
        return self._host.address

    def ref(self, object_type: type[T], id: str, /) -> T:
        return ref(self, object_type, id)

    def publish(self, event: Message[Any], /) -> None:
        self._host.publish(self.object_id, type_name_of(type(event)), encode_message(event))

    async def shutdown(self) -> None:
        """Ask for the object's deactivation, which starts when the running turn has ended."""
        self.closing = True
        self._host.dispatcher.pump(self)

    # --- state ------------------------------------------------------------------------------------

    async def load_state(self, *attributes: str) -> None:
        """Read these managed states, or all."""
        try:
            for field in self._fields(attributes):
                setattr(self.instance, field.attribute, await self._load(field))
        except Superseded:
            self.drop(superseded=True)
            raise

    async def save_state(self, *attributes: str) -> None:
        """Write these managed states, or all.

        Where it is not certain that all were written, memory and storage may differ: the activation
        is dropped after this turn, and the object is loaded again by the next call.
        """
        while self._saving is not None:
            await self._saving.wait()
        self._saving = asyncio.Event()
        try:
            if not self._host.dispatcher.admits:
                raise StorageUnavailable(
                    f"{self.object_id} was not saved: the node has lost its lease"
                )
            for field in self._fields(attributes):
                await self._save(field)
        except (StorageError, Superseded, asyncio.CancelledError) as error:
            self.drop(superseded=isinstance(error, Superseded))
            raise
        finally:
            self._saving.set()
            self._saving = None

    async def _load(self, field: ManagedStateField) -> Any:
        storage = field.storage or self._host.state
        try:
            stored = await storage.load_and_fence(self.object_id, field.state_name, self.token)
        except StateNotFound:
            self._versions[field.state_name] = 0
            return field.state_type()
        self._versions[field.state_name] = stored.version
        return codec.decode(stored.data, field.state_type, failure=StateCorrupt)

    async def _save(self, field: ManagedStateField) -> None:
        storage = field.storage or self._host.state
        data = codec.encode(getattr(self.instance, field.attribute))
        version = self._versions[field.state_name]
        self._versions[field.state_name] = await storage.save(
            self.object_id, field.state_name, self.token, version, data
        )

    def _fields(self, attributes: tuple[str, ...]) -> list[ManagedStateField]:
        fields = self.registered.managed_states
        unknown = set(attributes) - {field.attribute for field in fields}
        if unknown:
            known = ", ".join(field.attribute for field in fields) or "none"
            raise AttributeError(
                f"{self.table.type_name} has no managed state {', '.join(sorted(unknown))}; it has: {known}"
            )
        return [field for field in fields if not attributes or field.attribute in attributes]


def _is_cancelled() -> bool:
    """Whether somebody wants the running task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
