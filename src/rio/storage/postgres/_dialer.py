"""How to connect to the server that a URL of PostgreSQL names."""

from __future__ import annotations

import socket
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from rio.errors import ConfigurationError
from rio.logs import Logger
from rio.storage._url_form import show_url
from rio.storage.postgres._errors import TEMPORARY, explain, sqlstate_of

logger = Logger("rio.storage")

CONNECT_TIMEOUT = 3
"""Seconds for one attempt to connect."""
COMMAND_TIMEOUT = 2.0
"""Seconds for one statement, once it is prepared.

The server cancels it a little earlier, which leaves the connection usable.
"""
LONGEST_COMMAND = 2 * COMMAND_TIMEOUT
"""Seconds for a statement that has to be prepared first."""

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

_OF_DRIVER = {
    *("dbname", "host", "passfile", "password", "port", "service", "servicefile", "user"),
    *("gsslib", "krbsrvname", "options", "target_session_attrs"),
    *("ssl_max_protocol_version", "ssl_min_protocol_version", "sslmode", "sslnegotiation"),
    *("sslcert", "sslcrl", "sslkey", "sslpassword", "sslrootcert"),
}
"""Options of libpq that the driver knows."""
_IGNORED = {
    *("channel_binding", "client_encoding", "connect_timeout", "fallback_application_name"),
    *("gssdelegation", "gssencmode", "load_balance_hosts", "require_auth", "requirepeer"),
    *("keepalives", "keepalives_count", "keepalives_idle", "keepalives_interval"),
    *("sslcertmode", "sslcompression", "sslcrldir", "sslsni"),
}
"""Options of libpq that the driver does not know, or that ``rio`` decides. Hosted services put some
of them into their URLs.
"""
# After the login, because poolers refuse them before it. Only the URL may say
# synchronous_commit=off, whatever the default of the server is.
_SET = """
    SELECT set_config(name, value, false)
    FROM unnest($1::text[], $2::text[]) AS setting(name, value)
    WHERE name <> 'synchronous_commit' OR $3 OR current_setting(name) = 'off'
"""
# The system and its timeline, which a promotion changes. A standby has none of its own.
_SET_AND_TELL_HISTORY = f"""
    WITH made AS MATERIALIZED ({_SET})
    SELECT CASE WHEN NOT pg_is_in_recovery() THEN system_identifier || '/'
        || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END,
        (SELECT count(*) FROM made)
    FROM pg_control_system()
"""


class PostgresConnection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection that notices within seconds that the other machine is gone, and that waits for
    each round trip as long, over however slow a network.
    """

    __slots__ = ("_prepared",)

    def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        self._prepared: set[str] = set()
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)

    async def fetch_in_time(self, sql: str, *parameters: Any) -> list[Any]:
        """The rows of a statement.

        The driver prepares a statement when it is first executed, which is a round trip more. With
        the time of one trip for both, a network that is slow enough would never execute anything.
        """
        timeout = COMMAND_TIMEOUT if sql in self._prepared else LONGEST_COMMAND
        rows: list[Any] = await self.fetch(sql, *parameters, timeout=timeout)
        self._prepared.add(sql)
        return rows


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
        if "ssl" in options:
            raise ConfigurationError(
                f"{self.server}: libpq has no option ssl: write sslmode=require"
            )
        for_driver = {name: value for name, value in options.items() if name in _OF_DRIVER}
        ignored = options.keys() & _IGNORED
        if ignored:
            logger.warning("%s: rio ignores %s", self.server, ", ".join(sorted(ignored)))
        self._dsn = parts._replace(scheme="postgresql", query=urlencode(for_driver)).geturl()
        self._attributes = None if "target_session_attrs" in options else "read-write"
        self._own_commit = "synchronous_commit" in options
        own = {name: options[name] for name in options.keys() - _OF_DRIVER - _IGNORED}
        self._settings = {"synchronous_commit": "on", **_SETTINGS, **own}

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
                max_cached_statement_lifetime=0,  # they are few, and the same as long as we live
                connection_class=PostgresConnection,
                target_session_attrs=self._attributes,
            )
        except asyncpg.exceptions.TargetServerAttributeNotMatched as error:
            raise ConnectionError(
                "it is a standby, or read-only for this user: have the URL name the primary;"
                " a storage that is only read may have ?target_session_attrs=any in its URL"
            ) from error
        except TEMPORARY:
            raise
        except (asyncpg.InterfaceError, ValueError) as error:
            raise ConfigurationError(f"{self.server}: {error}") from error
        except asyncpg.PostgresError as error:
            raise explain(self.server, error) from error
        try:
            self.history = await self._set_up(connection)
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _set_up(self, connection: Any) -> str:
        """Make the settings of the session, and return the history of the server.

        :raises ConfigurationError: the server does not know a setting, or refuses its value.
        """
        names, values = zip(*self._settings.items(), strict=True)
        settings = names, values, self._own_commit
        try:
            try:
                [(history, _)] = await connection.fetch_in_time(_SET_AND_TELL_HISTORY, *settings)
                return history or ""
            except (asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError):
                # Hosted services may keep the history to themselves. Nothing was set.
                await connection.fetch_in_time(_SET, *settings)
                return ""
        except asyncpg.PostgresError as error:
            if not sqlstate_of(error).startswith(("22", "42", "55")):
                raise explain(self.server, error) from error
            raise ConfigurationError(
                f"{self.server}: an option of the URL cannot be set: {error}"
            ) from error
