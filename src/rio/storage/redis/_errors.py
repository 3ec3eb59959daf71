"""What the errors of Redis and its driver mean, and what to do about them."""

from __future__ import annotations

import re

from redis import exceptions

from rio.errors import SchemaMismatch, StorageUnavailable
from rio.storage._connector import in_words
from rio.storage._rows import row_corrupt

TEMPORARY = (OSError, exceptions.ConnectionError, exceptions.TimeoutError)
"""Errors of an attempt to connect while a server restarts or another one takes over."""

REFUSED_LOGIN = "it refused the login: look at the user and the password in the URL"

_WHAT_TO_DO = {
    "READONLY": "it is a replica: have the URL name the primary",
    "MASTERDOWN": "it is a replica without its primary",
    "LOADING": "it is loading its data: it will be there soon",
    "OOM": "its memory is full: raise maxmemory, and have maxmemory-policy be noeviction",
    "MISCONF": "it cannot write to its disk, so it refuses writes: look at the disk and its log",
    "NOAUTH": "it wants a password: put it into the URL",
    "WRONGPASS": REFUSED_LOGIN,
    "NOPERM": (
        "this user may not run a command or touch the keys of this namespace:"
        " docs/storage.md has the rule of an ACL that is enough"
    ),
    "BUSY": "it is busy with the script of another client",
    "MOVED": (
        "it is one of a Redis Cluster, and the key lives on another:"
        " name a proxy, or a server that holds all keys"
    ),
    "CLUSTERDOWN": "its cluster is down",
    "NOREPLICAS": "too few of its replicas are there",
}
"""By the first word of the error."""

_WITHOUT_WORD = [
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.MovedError, "MOVED"),
]
"""Errors whose first word the driver takes away."""


def explain(server: str, error: Exception) -> Exception:
    """The error for callers: errors of the driver are translated, all others are returned as they
    are.
    """
    if isinstance(error, exceptions.ResponseError) and not isinstance(error, TEMPORARY):
        damaged = re.search("<damaged (.*?)>", str(error))
        if damaged is not None:
            return row_corrupt(f"{server}: {damaged[1]}", "it is no number")
        word = _first_word(error)
        if word == "WRONGTYPE":
            return SchemaMismatch(
                f"{server}: a key of rio holds something else:"
                f" choose another namespace, or another database ({error})"
            )
        what_to_do = _WHAT_TO_DO.get(word, "Redis could not do it")
        return StorageUnavailable(f"{server}: {what_to_do} ({error})")
    if isinstance(error, (*TEMPORARY, exceptions.RedisError)):
        return StorageUnavailable(
            f"{server}: the connection was lost or too slow;"
            f" it may have been done or not ({in_words(error)})"
        )
    return error


def _first_word(error: exceptions.ResponseError) -> str:
    return next(
        (word for cls, word in _WITHOUT_WORD if isinstance(error, cls)),
        str(error).partition(" ")[0],
    )
