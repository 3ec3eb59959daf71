"""Where a cluster keeps what it knows: members, placements and states, on one back end or three.

``open_storage(url)`` makes all three at once, and each of them can have a URL of its own. Drivers are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from rio.cluster.membership import MembershipStorage
from rio.errors import ConfigurationError
from rio.placement import ObjectPlacement
from rio.state import StateStorage
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState

__all__ = ["Storage", "open_storage"]


@dataclass(frozen=True)
class Storage:
    """The three roles. ``dataclasses.replace(storage, state=...)`` puts one of them on another back end."""

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
    url: str | None = None, /, *, membership: str | None = None, placement: str | None = None, state: str | None = None
) -> Storage:
    """The storage that a URL names, not yet prepared. ``membership``, ``placement`` and ``state``: URLs of roles that live elsewhere.

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

    :raises ConfigurationError: a URL names no back end, or has an option that its back end does not know; or a role has no URL.
    """
    given = {"membership": membership, "placement": placement, "state": state}
    opened = {name: getattr(_open(role_url), name) for name, role_url in given.items() if role_url is not None}
    if url is not None:
        return replace(_open(url), **opened)
    if missing := given.keys() - opened.keys():
        raise ConfigurationError(f"there is no URL for {', '.join(sorted(missing))}: give one for each role, or one for all")
    return Storage(**opened)


def _open(url: str) -> Storage:
    parts = urlsplit(url)
    opener = _OPENERS.get(parts.scheme)
    if opener is None:
        known = ", ".join(f"{scheme}://" for scheme in _OPENERS)
        raise ConfigurationError(f"{url!r} is no storage URL: it must begin with one of {known}")
    return opener(url, parts)


def _open_memory(url: str, parts: SplitResult) -> Storage:
    if parts.netloc or parts.path or parts.query:
        raise ConfigurationError(f"{url!r}: nothing may follow memory://")
    return Storage(LocalMembershipStorage(), LocalObjectPlacement(), LocalState())


def _open_sqlite(url: str, parts: SplitResult) -> Storage:
    from rio.storage import sqlite

    if parts.netloc or len(parts.path) < 2:
        raise ConfigurationError(f"{url!r}: write sqlite:///relative.db or sqlite:////absolute.db")
    database = sqlite.SqliteDatabase(unquote(parts.path[1:]), **_seconds(url, parts, {"busy_timeout"}))
    return Storage(sqlite.SqliteMembershipStorage(database), sqlite.SqliteObjectPlacement(database), sqlite.SqliteState(database))


def _open_postgres(url: str, parts: SplitResult) -> Storage:
    postgres = _driver("rio.storage.postgres", "postgres")
    database = postgres.PostgresDatabase(url)
    return Storage(
        postgres.PostgresMembershipStorage(database), postgres.PostgresObjectPlacement(database), postgres.PostgresState(database)
    )


def _open_redis(url: str, parts: SplitResult) -> Storage:
    redis = _driver("rio.storage.redis", "redis")
    database = redis.open_database(url)
    return Storage(redis.RedisMembershipStorage(database), redis.RedisObjectPlacement(database), redis.RedisState(database))


def _open_http(url: str, parts: SplitResult) -> Storage:
    from rio.storage.http import HttpMembershipStorage

    return Storage(HttpMembershipStorage(url), _NoPlacement(url), _NoState(url))


class _ForClients:
    """A role that a URL does not have. A client has no need of it; a server is told so when it prepares."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    async def prepare(self) -> None:
        raise ConfigurationError(f"{self._url} holds no placements and no states: it is for clients, a server needs the storage itself")


class _NoPlacement(_ForClients, LocalObjectPlacement): ...


class _NoState(_ForClients, LocalState): ...


def _driver(module: str, extra: str) -> Any:
    """The module of a back end.

    :raises ConfigurationError: its driver is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(f"{extra}:// needs its driver ({error}): pip install 'rio-actors[{extra}]'") from error


def _seconds(url: str, parts: SplitResult, known: set[str]) -> dict[str, float]:
    """The options of a URL, all of which are seconds."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - known:
        raise ConfigurationError(f"{url!r}: unknown option {', '.join(sorted(unknown))}; there is {', '.join(sorted(known))}")
    try:
        return {name: float(value) for name, value in options.items()}
    except ValueError as error:
        raise ConfigurationError(f"{url!r}: options are seconds: {error}") from error


_OPENERS: dict[str, Callable[[str, SplitResult], Storage]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "postgres": _open_postgres,
    "postgresql": _open_postgres,
    "redis": _open_redis,
    "rediss": _open_redis,
    "http": _open_http,
    "https": _open_http,
}
