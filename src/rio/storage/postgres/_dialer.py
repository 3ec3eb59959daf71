"""How to connect to the server that a URL of PostgreSQL names."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from rio.errors import ConfigurationError
from rio.storage._url_form import show_url
from rio.storage.postgres._errors import TEMPORARY, explain, sqlstate_of

CONNECT_TIMEOUT = 3
"""Seconds for one attempt to connect."""
COMMAND_TIMEOUT = 2.0
"""Seconds for one statement.

The server cancels it a little earlier, which leaves the connection usable.
"""

_SETTINGS = {
    "application_name": "rio",
    "default_transaction_isolation": "read committed",
    "statement_timeout": f"{COMMAND_TIMEOUT * 900:.0f}",
    "idle_in_transaction_session_timeout": f"{COMMAND_TIMEOUT * 1000:.0f}",
    "tcp_user_timeout": "5000",
    "tcp_keepalives_idle": "5",
    # Statements find rows by their keys. A plan that was made while a table was small must not
    # read the whole table later.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # Planning a statement for its values takes longer than running it.
    "plan_cache_mode": "force_generic_plan",
}


# Those of the system and of its timeline, which a promotion changes. A standby has none of its own.
_HISTORY = """
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN system_identifier || '/'
        || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END
    FROM pg_control_system()
"""


class PostgresConnection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection that notices within seconds that the other machine is gone."""

    __slots__ = ()

    def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)


class PostgresDialer:
    """Makes connections to the server that a URL names."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self.server = show_url(url)
        """The URL without its password and options, for error texts."""
        self.history = ""
        """The system and the timeline of the server that was dialled last; empty where the server
        does not tell.
        """
        self._dsn = parts._replace(scheme="postgresql", query=urlencode(options)).geturl()
        self._settings = {name: value for name, value in _SETTINGS.items() if name not in options}
        self._attributes = None if "target_session_attrs" in options else "read-write"
        self._keep_commit = "synchronous_commit" in options

    async def dial(self) -> Any:
        """A new connection.

        :raises ConfigurationError: the URL cannot work.
        :raises StorageUnavailable: the server refuses the connection.
        :raises OSError: or another error of ``TEMPORARY``: another attempt may succeed.
        """
        try:
            connection = await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                connection_class=PostgresConnection,
                server_settings=self._settings,
                target_session_attrs=self._attributes,
            )
        except TEMPORARY:
            raise
        except (asyncpg.InterfaceError, ValueError) as error:
            raise ConfigurationError(f"{self.server}: {error}") from error
        except asyncpg.PostgresError as error:
            if sqlstate_of(error).startswith("42"):
                raise ConfigurationError(
                    f"{self.server}: the server does not know an option of the URL: {error}"
                ) from error
            raise explain(self.server, error) from error
        try:
            if not self._keep_commit:
                await self._insist_on_commit(connection)
            self.history = await self._read_history(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _insist_on_commit(self, connection: Any) -> None:
        """Make writes durable before they return, even if the default of the server is otherwise.
        Only the URL may say ``synchronous_commit=off``.
        """
        await connection.execute(
            "SELECT set_config('synchronous_commit', 'on', false)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )

    async def _read_history(self, connection: Any) -> str:
        try:
            return await connection.fetchval(_HISTORY) or ""
        except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
            return ""  # hosted services may keep it to themselves
