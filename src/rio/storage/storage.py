"""The storage of a cluster: its roles, opened from URLs, mixed, prepared and closed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from typing import Any, Self

import msgspec

from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.role import Role
from rio.contracts.roles import ROLES
from rio.contracts.state import StateStorage
from rio.errors import ConfigurationError
from rio.storage._shared import DatabaseRole


class Storage(msgspec.Struct, frozen=True):
    """A storage for each role of ``rio.contracts.ROLES``. Iterating over it yields the roles.

    ``async with storage:`` prepares all of them and closes them.
    ``msgspec.structs.replace(storage, state=...)`` puts one of them on another back end.
    """

    membership: MembershipStorage
    placement: ObjectPlacement
    state: StateStorage

    def __post_init__(self) -> None:
        self.state.use_placement(self.placement)

    def __iter__(self) -> Iterator[Role]:
        return iter([getattr(self, role.name) for role in ROLES])

    async def prepare(self) -> None:
        """Prepare all roles. If one fails, none stays open.

        :raises StorageUnavailable: a back end did not answer.
        :raises SchemaMismatch: a database belongs to another version of ``rio``.
        """
        try:
            for role in self:
                await role.prepare()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all roles, even if closing one of them fails. Idempotent."""
        await close_roles(self)

    async def __aenter__(self) -> Self:
        await self.prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def open_storage(
    url: str | None = None,
    /,
    *,
    membership: str | None = None,
    placement: str | None = None,
    state: str | None = None,
) -> Storage:
    """Open the storage that a URL names. It is not prepared yet: use ``async with``.

    ``url`` is for all roles. ``membership``, ``placement`` and ``state`` are URLs of roles that
    live elsewhere; if all of them are given, ``url`` may be left out.

    ==================================  ============================================================
    ``memory://``                       in this process; each call opens another, empty storage
    ``sqlite:///relative/path.db``      a file that the processes of one machine share
    ``sqlite:////absolute/path.db``
    ``postgres://user@host/database``   PostgreSQL; needs ``pip install 'rio-actors[postgres]'``
    ``redis://user:password@host/0``    Redis or Valkey (``rediss://`` with TLS);
                                        needs ``pip install 'rio-actors[redis]'``
    ``http://host:port``                the members as servers show them (``https://`` with TLS);
                                        for clients
    ==================================  ============================================================

    ============  ==================================================================================
    back end      options
    ============  ==================================================================================
    ``sqlite``    ``?busy_timeout=SECONDS`` (5): how long to wait for another process's transaction
    ``postgres``  options of libpq and settings of the session; ``?search_path=app`` keeps the
                  tables in a schema
    ``redis``     options of redis-py for the connection, and

                  * ``?namespace=NAME`` (``rio``): the beginning of all keys
                  * ``?durable=yes`` refuses a server without an append-only file, which forgets
                    everything when it is restarted; ``?durable=no`` accepts it; without this option
                    the settings of the cluster decide
    ============  ==================================================================================

    :raises ConfigurationError: a URL names no back end or has an option that its back end does not
        know; a driver is not installed; or a role has no URL.
    """
    storage, _ = mix_roles(url, membership=membership, placement=placement, state=state)
    return storage


def open_members(url: str, /) -> MembershipStorage:
    """The members at a URL, for those who only read them: a database that cannot be written to will
    do, and one that is not there is not created. They are not prepared yet.

    :raises ConfigurationError: as by :func:`open_storage`.
    """
    from rio.storage import _urls

    membership: MembershipStorage = _urls.open_roles(_urls.accept_read_only(url))["membership"]
    if isinstance(membership, DatabaseRole):
        membership._shared._creates = False
    return membership


def mix_roles(
    storage: Storage | str | None, /, **sources: Role | str | None
) -> tuple[Storage, list[Role]]:
    """Take each role from its own source if there is one, else from ``storage``.

    A source is a back end, or a URL. Returns the mixed storage, and those of its roles that were
    opened here from a URL: the caller must close them.

    :raises ConfigurationError: a role has no source, or a URL cannot be opened.
    """
    whole = _open(storage) if isinstance(storage, str) else storage
    own = {name: source for name, source in sources.items() if source is not None}
    missing = [role.name for role in ROLES if role.name not in own and whole is None]
    if missing:
        raise ConfigurationError(
            f"there is no storage for {', '.join(missing)}: name one for all roles, for example"
            f' "sqlite:///app.db", or give {missing[0]}=...'
        )
    roles = {role.name: _take(role.name, own.get(role.name, whole)) for role in ROLES}
    opened = [roles[name] for name in roles if isinstance(own.get(name, storage), str)]
    return Storage(**roles), opened


async def close_roles(roles: Iterable[Role]) -> None:
    """Close roles, the last one first, even if closing one of them fails."""
    async with AsyncExitStack() as stack:
        for role in roles:
            stack.push_async_callback(role.close)


def _take(name: str, source: Storage | Role | str | None) -> Any:
    if isinstance(source, str):
        source = _open(source)
    return getattr(source, name) if isinstance(source, Storage) else source


def _open(url: str) -> Storage:
    # A program that gives back ends as objects does not need this module, which takes a while to
    # import.
    from rio.storage import _urls

    return Storage(**_urls.open_roles(url))
