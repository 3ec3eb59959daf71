"""What all storages of a cluster share, whatever they hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Role(ABC):
    """One part of what a cluster remembers: a storage that is prepared, used and closed.

    A back end subclasses one of the contracts, which are roles: :class:`MembershipStorage`,
    :class:`ObjectPlacement`, :class:`StateStorage`. ``rio.contracts.ROLES`` lists them.

    ``async with role:`` prepares it and closes it.
    """

    volatile: bool = False
    """Whether it is in the memory of one process, and gone with it. A server does not mix volatile
    members or placements with states that outlive them.
    """

    @abstractmethod
    async def prepare(self) -> None:
        """Connect, and create or check the schema.

        Idempotent, and safe when many processes do it at the same time.

        :raises StorageUnavailable: the back end did not answer.
        :raises SchemaMismatch: the database belongs to another version of ``rio``.
        """

    @abstractmethod
    async def close(self) -> None:
        """Release everything. Idempotent.

        Every other method raises :class:`rio.errors.StorageClosed` until :meth:`prepare` is called
        again.
        """

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        """Record to which cluster this storage belongs, if none is recorded or ``instead_of`` is,
        and return the recorded id.

        A server asks this of its placements and states before it joins, and refuses a storage that
        answers with another id. Roles in one database share the record. A back end without such a
        record takes every cluster, as this default does.

        :raises StorageUnavailable: the back end did not answer.
        """
        return cluster_id

    @property
    def why_not_durable(self) -> str:
        """Why this storage may forget what it has acknowledged; an empty string if it may not.

        Read it after :meth:`prepare`. A server refuses to start on a storage that gives a reason if
        its cluster settings have ``require_durable_storage``; otherwise it logs the reason.
        """
        return ""

    @property
    def history(self) -> str:
        """Which past this storage remembers, as far as its back end can tell: an identifier that
        changes when another database server has taken over, which may lack what came last.

        It is known after :meth:`prepare`, and may change with each new connection. Identifiers are
        random: they are compared for equality only. When it changes under a running server, the
        server pauses and looks which of its objects it still owns.
        """
        return ""

    async def __aenter__(self) -> Self:
        await self.prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
