"""One live object: how it comes to life and leaves, and its state.

The compiled core takes its turns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rio._core.dispatch import Dispatcher, Mailbox, TypeTable
from rio.errors import (
    HandlerFailed,
    NotActivated,
    RioError,
    Unavailable,
)
from rio.identity import Address, ObjectId, type_name_of
from rio.objects.message import Message, encode_message
from rio.objects.ref import ref
from rio.server import answers, states

if TYPE_CHECKING:
    from rio.contracts.state import StateStorage
    from rio.objects.app_data import AppData
    from rio.objects.lifecycle import LifecycleHook
    from rio.objects.registry import RegisteredType
    from rio.server.ownership import Ownership
    from rio.server.pubsub import MessageRouter

logger = logging.getLogger("rio.server")

T = TypeVar("T")


class NodeHost(Protocol):
    """What a live object needs of its node; :class:`rio.server.catalog.Catalog` is one."""

    dispatcher: Dispatcher
    ownership: Ownership
    state: StateStorage
    router: MessageRouter
    app_data: AppData
    address: Address
    send: Callable[..., Awaitable[Any]]
    """The compiled ``send`` of the node's client."""


class Activation(Mailbox):
    """An object in memory, from the claim of its placement to its release."""

    __slots__ = (
        "failed",
        "node",
        "object_id",
        "registered",
        "saving",
        "send",
        "shutting_down",
        "superseded",
        "token",
        "versions",
    )

    def __init__(
        self, table: TypeTable, id: str, registered: RegisteredType, node: NodeHost
    ) -> None:
        super().__init__(table, id)
        self.registered = registered
        self.object_id = ObjectId(table.type_name, id)
        self.token = 0
        """The fencing token of the claim; 0 before it."""
        self.failed = False
        """Its memory may be wrong: the node drops it and runs no shutdown hook."""
        self.superseded = False
        """Another activation owns the object: there is no placement to release."""
        self.shutting_down = False
        """Its shutdown hook runs."""
        self.send = node.send
        """How the object sends: without a Python frame of the node's."""
        self.node = node
        self.saving: asyncio.Event | None = None
        """The end of the save that runs; there is one at a time."""
        self.versions: dict[str, int] = {}
        """What the storage holds of each state, as far as this activation knows."""

    # --- coming to life ---------------------------------------------------------------------------

    async def activate(self) -> None:
        """Claim the object, load it, and start the turns that wait; or answer why it cannot be."""
        try:
            self.token = await self.node.ownership.claim(self.object_id)
            if not self.node.dispatcher.admits:
                raise Unavailable(
                    f"{self.address} lost its lease while it claimed {self.object_id}"
                )
            await self._load()
        except RioError as error:
            self.refuse(error)
        else:
            self.start(self.node.dispatcher)

    def refuse(self, error: RioError) -> None:
        """Leave the memory, and answer the turns that wait."""
        for turn in self.remove():
            turn.fail(error)

    def give_up(self) -> None:
        """Settle an activation whose steps were cut off: nobody knows how far they came."""
        self.refuse(Unavailable(f"{self.address} stopped while {self.object_id} was loaded"))

    async def _load(self) -> None:
        """Make the instance and bring it to life.

        :raises RioError: the answer, if that failed; the claim is given back by then.
        """
        registered = self.registered
        hooks = registered.hooks
        try:
            instance = self.instance = registered.cls()
            instance.id = self.id
            instance.object_id = self.object_id
            instance._activation = self
            if hooks.before_load is not None:
                await self._run(hooks.before_load)
            if hooks.load is not None:
                await self._run(hooks.load)
            elif registered.managed_states:
                await self.load_state()
            if hooks.after_load is not None:
                await self._run(hooks.after_load)
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
        await self._release()
        raise answer

    # --- leaving ----------------------------------------------------------------------------------

    async def deactivate(self) -> None:
        """Run the shutdown hooks, unless the memory may be wrong, and give the claim back."""
        try:
            if not self.failed:
                await self._run_shutdown_hooks()
        except Exception as error:
            logger.error("the shutdown hook of %s failed", self.object_id, exc_info=error)
        finally:
            await self._release()

    async def _run_shutdown_hooks(self) -> None:
        hooks = self.registered.hooks
        if hooks.before_shutdown is not None:
            await self._run(hooks.before_shutdown)
        self.shutting_down = True
        if hooks.shutdown is not None:
            await self._run(hooks.shutdown)

    def drop(self, *, superseded: bool = False) -> None:
        """Start no further turn, and leave the memory once the running turn has ended.

        ``superseded``: another node took the object over.
        """
        self.failed = True
        self.superseded = self.superseded or superseded
        self.closing = True
        self.node.dispatcher.pump(self)

    async def _release(self) -> None:
        if self.token and not self.superseded:
            await self.node.ownership.release(self.object_id, self.token)

    async def _run(self, hook: LifecycleHook) -> None:
        try:
            await hook.run(self.instance, self.node.app_data)
        except SystemExit as error:  # it would end the event loop
            raise HandlerFailed(f"the hook {hook.name} called sys.exit({error.code!r})") from error
        except asyncio.CancelledError as error:
            if _is_cancelled():
                raise
            raise HandlerFailed(
                f"the hook {hook.name} was cancelled by something it awaited"
            ) from error

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
        self.node.router.publish(self.object_id, type_name_of(type(event)), encode_message(event))

    async def shutdown(self) -> None:
        """Ask for the object's deactivation, which starts when the running turn has ended."""
        self.closing = True
        self.node.dispatcher.pump(self)

    async def load_state(self, *attributes: str) -> None:
        await states.load(self, attributes)

    async def save_state(self, *attributes: str) -> None:
        await states.save(self, attributes)


def _is_cancelled() -> bool:
    """Whether somebody wants the running task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
