"""Which back end a URL means, and what its parts say to it.

Drivers are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from rio.errors import ConfigurationError
from rio.storage import Storage
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState


def opened(url: str) -> Storage:
    """The three roles at one URL, not yet prepared.

    :raises ConfigurationError: it names no back end, or has an option that its back end does not
    know.
    """
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
    database = sqlite.SqliteDatabase(
        unquote(parts.path[1:]), **_seconds(url, parts, {"busy_timeout"})
    )
    return Storage(
        sqlite.SqliteMembershipStorage(database),
        sqlite.SqliteObjectPlacement(database),
        sqlite.SqliteState(database),
    )


def _open_postgres(url: str, parts: SplitResult) -> Storage:
    postgres = _driver("rio.storage.postgres", "postgres")
    database = postgres.PostgresDatabase(url)
    return Storage(
        postgres.PostgresMembershipStorage(database),
        postgres.PostgresObjectPlacement(database),
        postgres.PostgresState(database),
    )


def _open_redis(url: str, parts: SplitResult) -> Storage:
    redis = _driver("rio.storage.redis", "redis")
    database = redis.open_database(url)
    return Storage(
        redis.RedisMembershipStorage(database),
        redis.RedisObjectPlacement(database),
        redis.RedisState(database),
    )


def _open_http(url: str, parts: SplitResult) -> Storage:
    from rio.storage.http import HttpMembershipStorage

    return Storage(HttpMembershipStorage(url), _NoPlacement(url), _NoState(url))


class _ForClients:
    """A role that a URL does not have.

    A client has no need of it; a server is told so when it prepares.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._url = url

    async def prepare(self) -> None:
        raise ConfigurationError(
            f"{self._url} holds no placements and no states: it is for clients, a server needs the storage itself"
        )


class _NoPlacement(_ForClients, LocalObjectPlacement): ...


class _NoState(_ForClients, LocalState): ...


def _driver(module: str, extra: str) -> Any:
    """The module of a back end.

    :raises ConfigurationError: its driver is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigurationError(
            f"{extra}:// needs its driver ({error}): pip install 'rio-actors[{extra}]'"
        ) from error


def _seconds(url: str, parts: SplitResult, known: set[str]) -> dict[str, float]:
    """The options of a URL, all of which are seconds."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - known:
        raise ConfigurationError(
            f"{url!r}: unknown option {', '.join(sorted(unknown))}; there is {', '.join(sorted(known))}"
        )
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
