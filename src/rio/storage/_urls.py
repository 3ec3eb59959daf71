"""Which back end a URL names, and how it is opened.

Back ends are imported when a URL names them, and with them their drivers.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NoReturn
from urllib.parse import SplitResult, parse_qsl, unquote

from rio.contracts.roles import ROLES, RoleRow, make_stand_in
from rio.errors import ConfigurationError
from rio.storage._url_form import show_url, split_url


def open_roles(url: str) -> dict[str, Any]:
    """Each role at a URL, by its name, not yet prepared.

    :raises ConfigurationError: the URL names no back end or has an option that the back end does
        not know, or the driver is not installed.
    """
    scheme = url.partition(":")[0].lower()
    opener = _OPENERS.get(scheme)
    if opener is None:
        known = ", ".join(f"{scheme}://" for scheme in _OPENERS)
        raise ConfigurationError(
            f"{show_url(url)!r} is no storage URL: it must begin with one of {known}"
        )
    return opener(url)


def accept_read_only(url: str) -> str:
    """The URL, with the wish for a server that need not be writable, unless it has another wish."""
    rest, question, query = url.partition("?")
    is_postgres = _OPENERS.get(rest.partition(":")[0].lower()) is _open_postgres
    if not is_postgres or "target_session_attrs" in dict(parse_qsl(query, keep_blank_values=True)):
        return url
    return f"{url}{'&' if question else '?'}target_session_attrs=any"


def _open_memory(url: str) -> dict[str, Any]:
    from rio.storage import local

    parts = split_url(url, "memory://")
    if parts.netloc or parts.path or parts.query:
        raise ConfigurationError(f"{show_url(url)!r}: nothing may follow memory://")
    return _roles_of(local, url)


def _open_sqlite(url: str) -> dict[str, Any]:
    from rio.storage import sqlite

    right = "sqlite:///relative.db or sqlite:////absolute.db, or memory:// to keep all in memory"
    parts = split_url(url, right)
    if parts.netloc or len(parts.path) < 2:
        raise ConfigurationError(f"{show_url(url)!r} names no file: write {right}")
    options = _seconds(url, parts, {"busy_timeout"})
    return _roles_of(sqlite, url, sqlite.SqliteDatabase(unquote(parts.path[1:]), **options))


def _open_postgres(url: str) -> dict[str, Any]:
    try:
        from rio.storage import postgres
    except ImportError as error:
        raise _missing_driver("postgres", error) from error
    return _roles_of(postgres, url, postgres.PostgresDatabase(url))


def _open_redis(url: str) -> dict[str, Any]:
    try:
        from rio.storage import redis
    except ImportError as error:
        raise _missing_driver("redis", error) from error
    return _roles_of(redis, url, redis.RedisDatabase.from_url(url))


def _open_http(url: str) -> dict[str, Any]:
    from rio.storage import http

    return _roles_of(http, url, url)


def _missing_driver(extra: str, error: ImportError) -> ConfigurationError:
    return ConfigurationError(
        f"{extra}:// needs its driver ({error}): pip install 'rio-actors[{extra}]'"
    )


def _seconds(url: str, parts: SplitResult, known: set[str]) -> dict[str, float]:
    """The options of a URL, all of which are seconds."""
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := options.keys() - known:
        raise ConfigurationError(
            f"{show_url(url)!r}: unknown option {', '.join(sorted(unknown))};"
            f" there is {', '.join(sorted(known))}"
        )
    try:
        return {name: float(value) for name, value in options.items()}
    except ValueError as error:
        raise ConfigurationError(f"{show_url(url)!r}: options are seconds: {error}") from error


def _roles_of(module: ModuleType, url: str, *arguments: Any) -> dict[str, Any]:
    """Each role, made from the class of a back end's module that keeps the role's contract."""
    roles = {}
    for role in ROLES:
        cls = _class_of(module, role.contract)
        roles[role.name] = _make_missing_role(role, url) if cls is None else cls(*arguments)
    return roles


def _class_of(module: ModuleType, contract: type) -> Callable[..., Any] | None:
    for name in module.__all__:
        public = getattr(module, name)
        if isinstance(public, type) and issubclass(public, contract):
            return public
    return None


def _make_missing_role(role: RoleRow, url: str) -> Any:
    """A role that a back end does not have.

    Clients do not use it. A server does: it is refused when it prepares the role.
    """

    async def refuse(*_: Any, **__: Any) -> NoReturn:
        raise ConfigurationError(
            f"{show_url(url)} has no {role.name} ({role.holds}): it is for clients,"
            " a server needs the storage itself"
        )

    return make_stand_in(role.contract, refuse)


_OPENERS: dict[str, Callable[[str], dict[str, Any]]] = {
    "memory": _open_memory,
    "sqlite": _open_sqlite,
    "postgres": _open_postgres,
    "postgresql": _open_postgres,
    "redis": _open_redis,
    "rediss": _open_redis,
    "http": _open_http,
    "https": _open_http,
}
"""By the scheme of a URL."""
