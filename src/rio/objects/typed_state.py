"""A storage that is given states as they are, in the place of one that is given bytes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from rio import type_hints
from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState, TypedStateStorage
from rio.errors import StateCorrupt, StateNotFound, Unsupported
from rio.identity import ObjectId
from rio.objects.managed_state import ManagedStateField
from rio.objects.state_codec import NO_FIELDS, state_codec_of


def as_bytes(storage: TypedStateStorage[Any], field: ManagedStateField) -> StateStorage:
    """A storage of bytes that hands the states of ``field`` over to ``storage``."""
    return (VolatileStateAsBytes if storage.volatile else StateAsBytes)(storage, field)


class StateAsBytes(StateStorage):
    """What a server sees of a :class:`rio.contracts.TypedStateStorage` that keeps one field."""

    atomic = False

    def __init__(self, storage: TypedStateStorage[Any], field: ManagedStateField) -> None:
        self._storage = storage
        self._name = field.state_name
        self._state_type = field.state_type
        self._codec = state_codec_of(field.state_type)

    def __repr__(self) -> str:
        return repr(self._storage)

    @property
    def history(self) -> str:
        return self._storage.history

    @property
    def why_not_durable(self) -> str:
        return self._storage.why_not_durable

    async def prepare(self) -> None:
        await self._storage.prepare()

    async def close(self) -> None:
        await self._storage.close()

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        return await self._storage.adopt(cluster_id, instead_of=instead_of)

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        try:
            version, state = await self._storage.load_and_fence(object_id, token)
        except StateNotFound:
            return StoredObject(0, {})
        if type(state) is not self._state_type:
            raise StateCorrupt(
                f"{self._storage!r} has loaded a {type(state).__name__} for {object_id}, and its"
                f" state is a {type_hints.full_name(self._state_type)}"
            )
        data = self._codec.encode(state, NO_FIELDS, self._name, sys.maxsize)
        return StoredObject(version, {self._name: StoredState(data, state.__rio_schema__)})

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        state = self._codec.decode(*batch.states[self._name]).value
        return await self._storage.save(object_id, token, version, state)

    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        raise Unsupported(f"{self._storage!r} cannot list the objects of {type_name}")


class VolatileStateAsBytes(StateAsBytes):
    volatile = True
