"""How the managed states of a live object are loaded and saved."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

from rio.errors import StateNotFound, StorageError, Superseded

if TYPE_CHECKING:
    from rio._core.dispatch import Dispatcher, TypeTable
    from rio.contracts.state import StateStorage
    from rio.identity import ObjectId
    from rio.objects.managed_state import ManagedStateField
    from rio.objects.registry import RegisteredType
    from rio.server.limits import Limits


class StateHost(Protocol):
    """What states need of the node of their object."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def state(self) -> StateStorage: ...


class StateOwner(Protocol):
    """The object whose states they are; :class:`rio.server.activation.Activation` is one."""

    instance: Any
    registered: RegisteredType
    limits: Limits
    object_id: ObjectId
    token: int
    saving: asyncio.Event | None
    versions: dict[str, int]

    @property
    def table(self) -> TypeTable: ...
    @property
    def node(self) -> StateHost: ...
    def check_use(self, what: str) -> None: ...
    async def require_lease(self) -> None: ...
    def drop(self, *, superseded: bool = False) -> None: ...


async def load(owner: StateOwner, attributes: tuple[str, ...]) -> None:
    """Read these managed states, or all if there are no names."""
    try:
        for field in _fields(owner, attributes):
            await _load_field(owner, field)
    except Superseded:
        owner.drop(superseded=True)
        raise


async def save(owner: StateOwner, attributes: tuple[str, ...]) -> None:
    """Write these managed states, or all if there are no names.

    If it is not certain that all were written, memory and storage may differ: the activation is
    dropped after this turn, and the next call loads the object again.
    """
    while owner.saving is not None:
        await owner.saving.wait()
    owner.check_use("save_state")  # which may have ended while this waited
    owner.saving = asyncio.Event()
    try:
        await owner.require_lease()
        for field in _fields(owner, attributes):
            await _save_field(owner, field)
    except (StorageError, Superseded, asyncio.CancelledError) as error:
        owner.drop(superseded=isinstance(error, Superseded))
        raise
    finally:
        owner.saving.set()
        owner.saving = None


async def are_current(owner: StateOwner) -> bool:
    """Whether the storages hold the versions that the object has loaded or saved last.

    :raises StorageUnavailable: a storage did not answer.
    """
    try:
        for field in owner.registered.managed_states:
            version = owner.versions.get(field.state_name)
            if version not in (None, await _read_version(owner, field)):
                return False
    except Superseded:
        return False
    return True


async def _read_version(owner: StateOwner, field: ManagedStateField) -> int:
    storage = field.storage or owner.node.state
    try:
        stored = await storage.load_and_fence(owner.object_id, field.state_name, owner.token)
    except StateNotFound:
        return 0
    return stored.version


async def _load_field(owner: StateOwner, field: ManagedStateField) -> None:
    storage = field.storage or owner.node.state
    try:
        version, data = await storage.load_and_fence(owner.object_id, field.state_name, owner.token)
    except StateNotFound:
        version, value = 0, field.state_type()
    else:
        value = field.decode(data)
    owner.versions[field.state_name] = version
    setattr(owner.instance, field.attribute, value)


async def _save_field(owner: StateOwner, field: ManagedStateField) -> None:
    storage = field.storage or owner.node.state
    value = getattr(owner.instance, field.attribute)
    data = field.encode(value, owner.limits.state_limit)
    owner.versions[field.state_name] = await storage.save(
        owner.object_id,
        field.state_name,
        owner.token,
        owner.versions[field.state_name],
        data,
    )


def _fields(owner: StateOwner, attributes: tuple[str, ...]) -> list[ManagedStateField]:
    fields = owner.registered.managed_states
    unknown = set(attributes) - {field.attribute for field in fields}
    if unknown:
        known = ", ".join(field.attribute for field in fields) or "none"
        raise AttributeError(
            f"{owner.table.type_name} has no managed state {', '.join(sorted(unknown))}; "
            f"it has: {known}"
        )
    return [field for field in fields if not attributes or field.attribute in attributes]
