"""What an object remembers: the contract of the storage of managed states."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

import msgspec

from rio.contracts.placement import ObjectPlacement
from rio.contracts.role import Role
from rio.errors import StateCorrupt, StateNotFound, Unsupported
from rio.identity import ObjectId

T = TypeVar("T")

ENCRYPTED = b"\xc1"
"""The first byte of a state that was encrypted by :class:`rio.storage.EncryptedState`. No
MessagePack begins with it.
"""


class StoredState(NamedTuple):
    """One saved state, as the storage holds it. The storage does not look into it."""

    data: bytes
    """What was saved."""
    schema: int = 0
    """The schema of the state when it was saved; 0 if its class gave none."""


class StoredObject(NamedTuple):
    """All that a storage holds of one object."""

    version: int
    """1 after the first commit, one more after each further commit; 0 if there was none."""
    states: Mapping[str, StoredState]
    """The states that were ever saved, by their names; those too that this program has no field
    for.
    """


class Batch(msgspec.Struct, frozen=True):
    """What one commit changes. All of it is written, or nothing."""

    states: Mapping[str, StoredState]
    """The states to write, by their names, at least one. The others stay as they are."""


class StateStorage(Role):
    """The contract of the storage that holds the managed states of objects.

    One fence and one version stand for the whole object. Every method may raise
    :class:`rio.errors.StorageUnavailable`, which says nothing about what is stored.
    """

    atomic: bool = True
    """Whether a commit may have several states. If not, a class with more than one state in this
    storage is refused when its server prepares.
    """

    @abstractmethod
    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        """Read all states of an object, and refuse every commit under an older token from now on,
        in one atomic step.

        Where nothing was ever committed, it writes nothing: the answer is version 0 and no states.

        :raises Superseded: a newer token was here. This activation no longer owns the object.
        :raises StateCorrupt: something is stored that the storage cannot read.
        """

    @abstractmethod
    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        """Write a batch durably if ``token`` is the one that loaded the object, and ``version`` the
        one that was loaded or committed last. Returns the new version, ``version + 1``.

        Version 0 is the first commit. It is refused if anything was committed before, under
        whatever token, and, where the placement lies in the same database (see
        :meth:`use_placement`), if the placement does not name ``token``.

        The caller may change the batch, and use its buffers again, once this has returned.

        :raises Superseded: another token, or another version, is there. Nothing was written.
        :raises StorageUnavailable: it is not known whether the batch was written.
        """

    @abstractmethod
    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        """One page of the ids, in the order of their bytes, of the objects of a type that have a
        saved state: at most ``limit`` of those that begin with ``prefix`` and come after ``after``.

        Ask for the next page with the last id of this one. A page is one read, all pages together
        are no snapshot.

        :raises Unsupported: the storage cannot list.
        """

    # This is no abstract method: only tools need it, which look at many objects.
    async def read_object(self, object_id: ObjectId) -> StoredObject:
        """Read all states of an object without a fence, so that whoever has it loaded goes on.

        :raises StateCorrupt: something is stored that the storage cannot read.
        :raises Unsupported: the storage cannot read without a fence.
        """
        raise Unsupported(f"{type(self).__name__} cannot read {object_id} without taking it over")

    # This is no abstract method: only tools need it, which rewrite what was saved.
    async def rewrite_object(self, object_id: ObjectId, version: int, batch: Batch) -> bool:
        """Replace saved states by the same in a newer form, in one atomic step, if the object still
        has this version. Returns whether it has.

        Fence and version stay, so that whoever has the object loaded goes on, and saves over it.

        :raises Unsupported: the storage cannot write without a fence.
        """
        raise Unsupported(
            f"{type(self).__name__} cannot rewrite {object_id} without taking it over"
        )

    # This is no abstract method: a storage without a placement beside it has nothing to do.
    def use_placement(self, placement: ObjectPlacement) -> None:
        """Learn which placement says who owns the objects of this storage.

        A storage that shares a database with it lets a first commit write only while the placement
        names its token. Otherwise an activation that was paused before its first commit may write
        after its successor has found nothing.
        """


class SimpleStateStorage(StateStorage):
    """A storage that keeps one record of bytes for each object, for classes with one state.

    Subclass it, and implement :meth:`load_and_fence` and :meth:`save`. What they keep is up to this
    class: the name of the state, its schema and its data.
    """

    atomic = False

    @abstractmethod
    async def load_and_fence(self, object_id: ObjectId, token: int) -> tuple[int, bytes]:
        """Read the version and the record of an object, and refuse every save under an older token
        from now on, in one atomic step.

        The fence is laid even if nothing is stored yet.

        :raises StateNotFound: the storage has looked, and nothing is stored. The fence is laid.
        :raises Superseded: a newer token was here. This activation no longer owns the object.
        :raises StorageUnavailable: the storage did not answer. This says nothing about the record.
        """

    @abstractmethod
    async def save(self, object_id: ObjectId, token: int, version: int, data: bytes) -> int:
        """Write a record durably if ``token`` is the one that fenced it, and ``version`` the one
        that was loaded or saved last; 0 if none was found. Returns the new version,
        ``version + 1``.

        :raises Superseded: another token, or another version, is there. Nothing was written.
        :raises StorageUnavailable: it is not known whether the record was written.
        """

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        try:
            version, data = await self.load_and_fence(object_id, token)
        except StateNotFound:
            return StoredObject(0, {})
        try:
            name, schema, state = msgspec.msgpack.decode(data, type=tuple[str, int, bytes])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StateCorrupt(f"the record of {object_id} is none of rio: {error}") from error
        return StoredObject(version, {name: StoredState(state, schema)})

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        if len(batch.states) != 1:
            raise Unsupported(
                f"{type(self).__name__} keeps one state of an object, not"
                f" {', '.join(sorted(batch.states)) or 'none'}"
            )
        [(name, state)] = batch.states.items()
        data = msgspec.msgpack.encode((name, state.schema, state.data))
        return await self.save(object_id, token, version, data)

    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        raise Unsupported(f"{type(self).__name__} cannot list the objects of {type_name}")


class TypedStateStorage(Role, Generic[T]):
    """A storage that is given states as they are, and not as bytes: for tables whose columns others
    read as well.

    Subclass it, and implement :meth:`load_and_fence` and :meth:`save`. It keeps one state of the
    objects of one type. What it keeps is its own affair: fields that newer code has saved are not
    kept by older code, and it commits apart from the other states of an object.
    """

    @abstractmethod
    async def load_and_fence(self, object_id: ObjectId, token: int) -> tuple[int, T]:
        """Read the version and the state of an object, and refuse every save under an older token
        from now on, in one atomic step.

        The fence is laid even if nothing is stored yet.

        :raises StateNotFound: the storage has looked, and nothing is stored. The fence is laid.
        :raises Superseded: a newer token was here. This activation no longer owns the object.
        :raises StateCorrupt: something is stored that is no such state.
        :raises StorageUnavailable: the storage did not answer. This says nothing about the state.
        """

    @abstractmethod
    async def save(self, object_id: ObjectId, token: int, version: int, state: T) -> int:
        """Write a state durably if ``token`` is the one that fenced it, and ``version`` the one
        that was loaded or saved last; 0 if none was found. Returns the new version,
        ``version + 1``.

        :raises Superseded: another token, or another version, is there. Nothing was written.
        :raises StorageUnavailable: it is not known whether the state was written.
        """
