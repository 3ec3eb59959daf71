"""What the errors of PostgreSQL and its driver mean, and what to do about them."""

from __future__ import annotations

import asyncpg

from rio.errors import ConfigurationError, RioError, SchemaMismatch, StorageUnavailable
from rio.storage._connector import in_words

NOT_ALLOWED = "42501"

_WHAT_TO_DO = {
    "08": "the connection was lost: it may have been done or not",
    "25": "it is read-only, a standby for instance: have the URL name the primary, or all servers",
    "28": "it refused the login: look at the user, the password and pg_hba.conf",
    "3D": "the database does not exist: create it, or choose another one",
    "40": "another transaction was in the way, nothing was done",
    NOT_ALLOWED: (
        "this user may not do it, nothing was done: grant it the tables of rio and, for the first"
        " start, CREATE on their schema"
    ),
    "53": "it has run out of disk, memory or connections: look at its log and its limits",
    "55": "the row is locked by another session, nothing was done",
    "57": "it is shutting down, starting up, or took too long: it may have been done or not",
}
"""By the class of the SQLSTATE, its first two characters, or by all of it."""

TEMPORARY = (
    OSError,  # and with it TimeoutError
    asyncpg.InternalClientError,  # the server said farewell in the middle of its greeting
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)
"""Errors of an attempt to connect while a server restarts or another one takes over."""

_CONNECTION_LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def sqlstate_of(error: BaseException | None) -> str:
    """The SQLSTATE of an error, empty if it has none."""
    return getattr(error, "sqlstate", None) or ""


def explain(server: str, error: Exception) -> Exception:
    """The error for callers: errors of the driver are translated, all others are returned as they
    are.
    """
    state = sqlstate_of(error)
    if isinstance(error, RioError) or state.startswith("22"):
        return error  # "22" is a value that the driver or the server cannot take
    if state.startswith("42") and state != NOT_ALLOWED:
        return SchemaMismatch(
            f"{server}: its tables are not those of this version of rio ({error})"
        )
    if state.startswith("3F"):
        return ConfigurationError(
            f"{server}: the search_path names no schema that exists: create it first ({error})"
        )
    if state:
        what_to_do = _WHAT_TO_DO.get(
            state if state == NOT_ALLOWED else state[:2], "PostgreSQL could not do it"
        )
        return StorageUnavailable(f"{server}: {what_to_do} ({error})")
    if isinstance(error, _CONNECTION_LOST):
        return StorageUnavailable(
            f"{server}: the connection was lost or too slow:"
            f" it may have been done or not ({in_words(error)})"
        )
    return error


def was_not_sent(error: Exception) -> bool:
    """Whether the driver refused a statement because the server has said farewell, which it does
    some moments before the connection is closed.
    """
    return isinstance(error, asyncpg.InternalClientError) and str(error).startswith(
        "cannot switch to state"
    )


def leaves_usable(error: BaseException) -> bool:
    """Whether a connection can be used again after this error."""
    return isinstance(error, asyncpg.PostgresError) and not sqlstate_of(error).startswith(
        ("08", "25", "57P")
    )


def concerns_one_row(error: Exception) -> bool:
    """Whether one row of several is to blame: it has a bad value, or was part of a circle of
    locks.
    """
    cause = error.__cause__ if isinstance(error, StorageUnavailable) else error
    return sqlstate_of(cause).startswith(("22", "40"))
