"""What an object remembers: the contract of the storage of managed states."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from rio.contracts.role import Role
from rio.identity import ObjectId


class StoredState(NamedTuple):
    """One saved state, as the storage holds it."""

    version: int
    """1 for the first save, one more with each further save."""
    data: bytes
    """What was saved. The storage does not look into it."""


class StateLoader(ABC):
    """The half of the contract that reads."""

    @abstractmethod
    async def load_and_fence(self, object_id: ObjectId, state_name: str, token: int) -> StoredState:
        """Read a state, and refuse every save under an older token from now on, in one atomic step.

        The fence is laid even if nothing is stored yet.

        :raises StateNotFound: the storage has looked, and nothing is stored. The fence is laid.
        :raises Superseded: a newer token was here. This activation no longer owns the object.
        :raises StorageUnavailable: the storage did not answer. This says nothing about the state.
        :raises StateCorrupt: something is stored that the storage cannot read.
        """


class StateSaver(ABC):
    """The half of the contract that writes."""

    @abstractmethod
    async def save(
        self, object_id: ObjectId, state_name: str, token: int, version: int, data: bytes
    ) -> int:
        """Write a state durably if ``token`` is the one that fenced it, and ``version`` the one
        that was loaded or saved last.

        ``version`` is 0 for a state that was not found. Returns the new version, ``version + 1``.

        :raises Superseded: another token, or another version, is there. Nothing was written.
        :raises StorageUnavailable: it is not known whether the state was written.
        """


class StateStorage(StateLoader, StateSaver, Role):
    """The contract of the storage that holds the managed states of objects."""
