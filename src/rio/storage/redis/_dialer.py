"""How to connect to the server that a URL of Redis names, and how to talk to it."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import hiredis
from redis import exceptions
from redis.asyncio import ConnectionPool, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from rio.errors import ConfigurationError, StorageUnavailable
from rio.storage._connector import CONNECT_TIMEOUT, in_words
from rio.storage._url_form import show_url
from rio.storage.redis._errors import REFUSED_LOGIN
from rio.storage.redis._scripts import SCRIPTS

_SETTINGS: dict[str, Any] = {
    "protocol": 2,
    "retry": Retry(NoBackoff(), 0),
    "socket_timeout": None,
    "socket_keepalive": True,
    "driver_info": None,  # or each connection sends CLIENT SETINFO, which an ACL need not allow
}
_OPTIONS = {
    "client_name",
    "db",
    "health_check_interval",
    "max_connections",
    "password",
    "socket_connect_timeout",
    "socket_keepalive",
    "socket_timeout",
    "username",
}
_TLS_OPTIONS = {
    "ssl_ca_certs",
    "ssl_ca_data",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_min_version",
    "ssl_password",
}
"""Options of redis-py that a URL may have. What an answer looks like, and whether a command is
repeated, is not for others to decide.
"""


class RedisDialer:
    """Makes connections to the server that a URL names."""

    def __init__(self, url: str) -> None:
        self.server = show_url(url)
        """The URL without its password and options, for error texts."""
        self.history = ""
        """Which server the one that was dialled last has taken over from; empty for one that has
        always been a primary, and where the server does not tell.
        """
        _check_options(self.server, url)
        try:
            self._pool: Any = ConnectionPool.from_url(url, **_SETTINGS)
            self._check_tls()
        except (ValueError, OSError, exceptions.RedisError) as error:
            raise ConfigurationError(f"{self.server}: {in_words(error)}") from error

    def _check_tls(self) -> None:
        connection: Any = self._pool.make_connection()
        if isinstance(connection, SSLConnection):
            connection.ssl_context.get()  # reads the files

    async def dial(self) -> Any:
        """A new connection that knows the scripts.

        :raises StorageUnavailable: the server refuses the connection.
        :raises OSError: or another error of ``TEMPORARY``: another attempt may succeed.
        """
        connection: Any = self._pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()
                answers = await exchange(
                    connection,
                    [
                        (b"INFO", b"replication"),
                        *((b"SCRIPT", b"LOAD", script.text) for script in SCRIPTS),
                    ],
                )
        except BaseException as error:
            await drop(connection)
            if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
                raise StorageUnavailable(f"{self.server}: {REFUSED_LOGIN} ({error})") from error
            raise
        self.history = _history_of(answers[0])
        return connection


def _check_options(server: str, url: str) -> None:
    parts = urlsplit(url)
    known = _OPTIONS | _TLS_OPTIONS if parts.scheme == "rediss" else _OPTIONS
    given = dict(parse_qsl(parts.query, keep_blank_values=True)).keys()
    if given & _TLS_OPTIONS - known:
        raise ConfigurationError(f"{server}: options of TLS need a URL that begins with rediss://")
    if unknown := given - known:
        names = ", ".join(sorted(unknown))
        if "password" in given:  # a part of it may stand behind an '&' that is not escaped
            names = "in the URL (in a password '&' is written %26)"
        raise ConfigurationError(
            f"{server}: unknown option {names};"
            f" there are namespace, durable, {', '.join(sorted(known))}"
        )


def _history_of(answer: Any) -> str:
    """The replication id under which a replica has followed its primary before it was promoted.

    The other ids of a server change at each restart, which loses nothing that its file holds.
    """
    if isinstance(answer, Exception):
        return ""
    found = re.search(rb"^master_replid2:(\w+)", answer, re.MULTILINE)
    return "" if found is None or not found[1].strip(b"0") else found[1].decode()


async def exchange(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Send commands in one write, and return their answers.

    An error that is the answer to a command stands in its place. The caller sets a deadline.
    """
    await connection.send_packed_command(
        list(map(hiredis.pack_command, commands)), check_health=False
    )
    answers = []
    for _ in commands:
        try:
            answers.append(await connection.read_response(timeout=math.inf))
        except exceptions.ResponseError as error:
            answers.append(error)
    return answers


async def drop(connection: Any) -> None:
    """Close a connection without waiting for the server."""
    await connection.disconnect(nowait=True)
