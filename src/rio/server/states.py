"""How the managed states of a live object are loaded and saved."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import ConfigurationError, StateCorrupt, Superseded
from rio.objects.state_codec import NO_FIELDS, LoadedState

if TYPE_CHECKING:
    from rio._core.dispatch import Dispatcher, TypeTable
    from rio.identity import ObjectId
    from rio.objects.managed_state import ManagedStateField
    from rio.objects.registry import RegisteredType
    from rio.objects.state_codec import KeptFields
    from rio.server.limits import Limits

T = TypeVar("T")


class StateGroup(NamedTuple):
    """The states of a class that one storage keeps. They are loaded and saved together."""

    storage: StateStorage
    fields: Sequence[ManagedStateField]


class StateHost(Protocol):
    """What states need of the node of their object."""

    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def state_groups(self) -> Mapping[str, Sequence[StateGroup]]:
        """By the names of the types."""
        ...


class StateOwner(Protocol):
    """The object whose states they are; :class:`rio.server.activation.Activation` is one."""

    instance: Any
    registered: RegisteredType
    limits: Limits
    object_id: ObjectId
    token: int
    saving: list[asyncio.Future[None]] | None
    ended: bool
    save_failure: BaseException | None
    versions: dict[StateStorage, int] | None
    kept: dict[str, KeptFields] | None
    weight: int

    @property
    def table(self) -> TypeTable: ...
    @property
    def node(self) -> StateHost: ...
    def check_use(self, what: str) -> None: ...
    async def require_lease(self) -> None: ...
    def drop(self, *, superseded: bool = False) -> None: ...


def group_states(
    registered: RegisteredType,
    own: Mapping[ManagedStateField, StateStorage],
    default: StateStorage,
) -> list[StateGroup]:
    """The states of a class by their storage, in the order in which the class declares them."""
    groups: dict[StateStorage, list[ManagedStateField]] = {}
    for field in registered.managed_states:
        groups.setdefault(own.get(field, default), []).append(field)
    return [StateGroup(storage, fields) for storage, fields in groups.items()]


def check_atomic(type_name: str, groups: Sequence[StateGroup]) -> None:
    """:raises ConfigurationError: a storage cannot save together what it keeps of an object."""
    for storage, fields in groups:
        if len(fields) > 1 and not storage.atomic:
            *names, last = [field.attribute for field in fields]
            raise ConfigurationError(
                f"{type_name} has the states {', '.join(names)} and {last},"
                f" {type(storage).__name__} cannot commit them together: use sqlite, postgres,"
                " redis or implement StateStorage.load_object and commit"
            )


async def load(owner: StateOwner, attributes: tuple[str, ...]) -> None:
    """Read these managed states, or all if there are no names: each storage once."""
    try:
        for storage, fields in _chosen(owner, attributes):
            stored = await _load_object(owner, storage)
            _check_names(owner, storage, stored)
            loaded = [_value_of(field, stored) for field in fields]
            if owner.versions is None:
                owner.versions = {}
            owner.versions[storage] = stored.version
            _note_weight(owner, stored.states)
            for field, (value, kept) in zip(fields, loaded, strict=True):
                setattr(owner.instance, field.attribute, value)
                _keep(owner, field.state_name, kept)
    except Superseded as error:
        owner.save_failure = error
        owner.drop(superseded=True)
        raise


def _load_object(owner: StateOwner, storage: StateStorage) -> Awaitable[StoredObject]:
    work = storage.load_object(owner.object_id, owner.token)
    return _observe(owner, "load", storage, work)


def _commit(owner: StateOwner, storage: StateStorage, version: int, batch: Batch) -> Awaitable[int]:
    work = storage.commit(owner.object_id, owner.token, version, batch)
    return _observe(owner, "save", storage, work)


def _observe(
    owner: StateOwner, operation: str, storage: StateStorage, work: Awaitable[T]
) -> Awaitable[T]:
    """The work of a storage, as a span of its own if somebody traces."""
    tracer = owner.node.dispatcher.tracer
    if tracer is None:
        return work
    traced: Awaitable[T] = tracer.around_storage(
        work, operation, owner.object_id.type_name, type(storage).__name__
    )
    return traced


def _keep(owner: StateOwner, name: str, kept: KeptFields) -> None:
    if owner.kept is not None:
        owner.kept.pop(name, None)
    if kept:
        owner.kept = {**(owner.kept or {}), name: kept}


async def save(owner: StateOwner, attributes: tuple[str, ...]) -> None:
    """Write these managed states, or all if there are no names: in one commit for each storage.

    If it is not certain that all were written, memory and storage may differ: the activation is
    dropped after this turn, and the next call loads the object again. So it is whatever a storage
    raises, as one with a mistake may have written before.
    """
    while owner.saving is not None:
        end = asyncio.get_running_loop().create_future()
        owner.saving.append(end)
        await end
    if owner.ended:  # perhaps while this waited
        owner.check_use("save_state")
    if not owner.registered.managed_states:
        raise _nothing_to_save(owner)
    waiting: list[asyncio.Future[None]] = []
    owner.saving = waiting
    try:
        versions, batches = owner.versions or {}, []
        for storage, fields in _chosen(owner, attributes):
            if storage not in versions:
                raise _not_loaded(owner, fields)
            batches.append((storage, versions[storage], _encode(owner, fields)))
        try:
            if not owner.node.dispatcher.admits:
                await owner.require_lease()
            for storage, version, batch in batches:
                versions[storage] = await _commit(owner, storage, version, batch)
                _note_weight(owner, batch.states)
        except GeneratorExit:  # the loop has ended, and nothing loads the object again
            raise
        except BaseException as error:
            owner.save_failure = error
            owner.drop(superseded=isinstance(error, Superseded))
            raise
    finally:
        owner.saving = None
        for end in waiting:
            if not end.done():  # it is if its caller was cancelled
                end.set_result(None)


async def are_current(owner: StateOwner) -> bool:
    """Whether the storages hold the versions that the object has loaded or saved last.

    :raises StorageUnavailable: a storage did not answer.
    """
    try:
        for storage, version in list((owner.versions or {}).items()):
            if version != (await storage.load_object(owner.object_id, owner.token)).version:
                return False
    except Superseded:
        return False
    return True


def _note_weight(owner: StateOwner, states: Mapping[str, StoredState]) -> None:
    """Remember how large the object is, about: as large as what was read or written together."""
    size = 0
    for state in states.values():
        size += len(state.data)
    owner.weight = (
        size if len(states) == len(owner.registered.managed_states) else max(owner.weight, size)
    )


def _check_names(owner: StateOwner, storage: StateStorage, stored: StoredObject) -> None:
    """A storage of one state would lose one that the class has no field for."""
    unknown = () if storage.atomic else stored.states.keys() - _names(owner, storage)
    if unknown:
        raise StateCorrupt(
            f"{type(storage).__name__} holds the state {', '.join(unknown)} of {owner.object_id}"
            f" and keeps one: give it to the field, rio.managed_state(name=...)"
        )


def _names(owner: StateOwner, storage: StateStorage) -> Collection[str]:
    groups = owner.node.state_groups[owner.registered.type_name]
    return {
        field.state_name for group in groups if group.storage is storage for field in group.fields
    }


def _value_of(field: ManagedStateField, stored: StoredObject) -> LoadedState:
    state = stored.states.get(field.state_name)
    if state is None:
        return LoadedState(field.state_type(), NO_FIELDS)
    return field.decode(state)


def _not_loaded(owner: StateOwner, fields: Sequence[ManagedStateField]) -> AttributeError:
    return AttributeError(
        f"{owner.table.type_name}.{fields[0].attribute} was not loaded, so it cannot be saved:"
        " await self.load_state() in your load() before you give it a value"
    )


def _nothing_to_save(owner: StateOwner) -> AttributeError:
    return AttributeError(
        f"{owner.table.type_name} has no managed state, so nothing would be saved:"
        " declare one, data: YourState = rio.managed_state(), with class YourState(rio.State)"
    )


def _encode(owner: StateOwner, fields: Sequence[ManagedStateField]) -> Batch:
    states = {}
    for field in fields:
        name = field.state_name
        value = getattr(owner.instance, field.attribute)
        kept = NO_FIELDS if owner.kept is None else owner.kept.get(name, NO_FIELDS)
        states[name] = field.encode(value, kept, owner.limits.state_limit)
    return Batch(states)


def _chosen(owner: StateOwner, attributes: tuple[str, ...]) -> Sequence[StateGroup]:
    """The groups with these attributes, or all."""
    groups = owner.node.state_groups[owner.registered.type_name]
    if not attributes:
        return groups
    _check_attributes(owner, attributes)
    chosen = (
        StateGroup(storage, [field for field in fields if field.attribute in attributes])
        for storage, fields in groups
    )
    return [group for group in chosen if group.fields]


def _check_attributes(owner: StateOwner, attributes: tuple[str, ...]) -> None:
    fields = owner.registered.managed_states
    attribute_names = [field.attribute for field in fields]
    unknown = [attribute for attribute in attributes if attribute not in attribute_names]
    if unknown:
        raise AttributeError(
            f"{owner.table.type_name} has no managed state {', '.join(map(str, unknown))}; "
            f"it has: {', '.join(attribute_names) or 'none'}. Name the fields, or none"
            " for all; each knows its storage"
        )
