"""Where a cluster keeps what it knows: members, placements and states, on one back end or three.

``open_storage(url)`` makes all three at once, and each of them can have a URL of its own. Drivers
are imported when they are asked for.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Self

import msgspec
from msgspec.structs import replace

from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.errors import ConfigurationError

__all__ = ["Storage", "open_storage"]


class Storage(msgspec.Struct, frozen=True):
    """The three roles.

    ``msgspec.structs.replace(storage, state=...)`` puts one of them on another back end.
    """

    membership: MembershipStorage
    placement: ObjectPlacement
    state: StateStorage

    async def prepare(self) -> None:
        """Prepare all three; if one fails, none stays open.

        :raises StorageUnavailable: a back end did not answer.
        :raises SchemaMismatch: a database belongs to another version of ``rio``.
        """
        try:
            await self.membership.prepare()
            await self.placement.prepare()
            await self.state.prepare()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close all three, even if closing one of them fails. Idempotent."""
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.membership.close)
            stack.push_async_callback(self.placement.close)
            stack.push_async_callback(self.state.close)

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
    """The storage that a URL names, not yet prepared. ``membership``, ``placement`` and ``state``:
    URLs of roles that live elsewhere.

    ==================================  ===============================================================================
    ``memory://``                       in this process, empty, another one with each call
    ``sqlite:///relative/path.db``      a file that the processes of one machine share
    ``sqlite:////absolute/path.db``
    ``postgres://user@host/database``   PostgreSQL, with ``pip install 'rio-actors[postgres]'``
    ``redis://user:password@host/0``    Redis or Valkey, with ``pip install 'rio-actors[redis]'``; ``rediss://`` with TLS
    ``http://host:port``                the members as nodes show them, for clients; ``https://`` with TLS
    ==================================  ===============================================================================

    ============  ====================================================================================================
    back end      options
    ============  ====================================================================================================
    ``sqlite``    ``?busy_timeout=SECONDS`` (5), how long to wait for another process's transaction
    ``postgres``  those of libpq and settings of the session: ``?search_path=app`` keeps the tables in a schema
    ``redis``     those of redis-py; ``?namespace=NAME`` (``rio``), what keys begin with; ``?durable=no`` to accept a server
                  without an append-only file, which forgets all when it is restarted, ``?durable=yes`` to refuse it
                  whatever the preset of the cluster says
    ============  ====================================================================================================

    :raises ConfigurationError: a URL names no back end, or has an option that its back end does not
    know; or a role has no URL.
    """
    from rio.storage import (
        urls,
    )  # who gives all three as objects has no need of it, and it takes a while to import

    given = {"membership": membership, "placement": placement, "state": state}
    opened = {
        name: getattr(urls.opened(role_url), name)
        for name, role_url in given.items()
        if role_url is not None
    }
    if url is not None:
        return replace(urls.opened(url), **opened)
    if missing := given.keys() - opened.keys():
        raise ConfigurationError(
            f"there is no URL for {', '.join(sorted(missing))}: give one for each role, or one for all"
        )
    return Storage(**opened)
