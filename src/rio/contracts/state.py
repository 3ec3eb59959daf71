"""What a storage of object states promises: the contract that each back end keeps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from rio.contracts.role import Role
from rio.identity import ObjectId


class StoredState(NamedTuple):
    """One saved state as the storage holds it."""

    version: int
    """1 for the first save, one more with each."""
    data: bytes


class StateLoader(ABC):
    """The reading half of the contract."""

    @abstractmethod
    async def load_and_fence(self, object_id: ObjectId, state_name: str, token: int) -> StoredState:
        """Read a state, and from here on refuse every save under an older token, in one atomic
        step.

        The fence is also laid where nothing is stored yet.

        :raises StateNotFound: nothing is stored (the fence is laid all the same).
        :raises Superseded: a newer token has been here: this activation is no longer the object's.
        :raises StorageUnavailable: the storage did not answer; this says nothing about the state.
        :raises StateCorrupt: the stored row cannot be read.
        """


class StateSaver(ABC):
    """The writing half of the contract."""

    @abstractmethod
    async def save(
        self, object_id: ObjectId, state_name: str, token: int, version: int, data: bytes
    ) -> int:
        """Write a state durably if ``token`` is the one that fenced it and ``version`` is the one
        that was loaded or saved last.

        ``version`` is 0 for a state that was not found. Returns the new version, ``version + 1``.

        :raises Superseded: another token, or another version, is there; nothing was written.
        :raises StorageUnavailable: it is not known whether it was written.
        """


class StateStorage(StateLoader, StateSaver, Role):
    """The contract of a back end for managed state."""
