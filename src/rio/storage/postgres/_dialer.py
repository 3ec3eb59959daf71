"""How to connect to the server that a URL of PostgreSQL names."""

from __future__ import annotations

import asyncio
import itertools
import math
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from rio.errors import ConfigurationError
from rio.logs import Logger
from rio.storage._connector import CONNECT_TIMEOUT
from rio.storage._url_form import show_url
from rio.storage.postgres._errors import TEMPORARY, explain, sqlstate_of

logger = Logger("rio.storage")

COMMAND_TIMEOUT = 2.0
"""Seconds for one statement, once it is prepared.

The server cancels it a little earlier, which leaves the connection usable.
"""
OPEN_TIMEOUT = COMMAND_TIMEOUT / 8
"""Seconds after which what was prepared in advance is ended, and its locks are released."""
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


def _array(oid: int, element_oid: int, element: str) -> dict[str, Any]:
    """What the driver would ask the server about a type of arrays, in six round trips on each
    connection. These types are the same in all databases.
    """
    unused = dict.fromkeys(("basetype", "basetype_name", "range_subtype", "attrtypoids"))
    return {
        **unused,
        "oid": oid,
        "ns": "pg_catalog",
        "name": f"_{element}",
        "kind": b"b",
        "elemtype": element_oid,
        "elemtype_name": element,
        "elemdelim": b",",
    }


_ARRAYS = [_array(1001, 17, "bytea"), _array(1016, 20, "int8")]


class KnownStatements:
    """What one connection has learned about statements and the others need not ask for.

    A statement has the same name on all connections. The driver cannot execute what it has not
    prepared itself, but it can be given the description of the same statement on another one.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._numbers = itertools.count(1)
        self._described: dict[str, PreparedStatement] = {}

    def name(self, sql: str) -> str:
        return self._names.setdefault(sql, f"rio_{next(self._numbers)}")

    def add(self, sql: str, prepared: PreparedStatement) -> None:
        self._described[sql] = prepared

    def forget(self, sql: str) -> None:
        """The statement returns something else than before: it gets another name."""
        self._names.pop(sql, None)
        self._described.pop(sql, None)

    def adapt(self, connection: Any, sql: str) -> PreparedStatement | None:
        """The statement for a connection that prepares it under its name; nothing if it was never
        described.
        """
        described = self._described.get(sql)
        return described and PreparedStatement(connection, sql, described._state)


class PostgresConnection(asyncpg.Connection):  # type: ignore[misc]  # the driver has no types
    """A connection that notices within seconds that the other machine is gone, and that waits for
    each round trip as long, over however slow a network.
    """

    __slots__ = ("_prepared", "known")

    def __init__(self, protocol: Any, transport: Any, *rest: Any) -> None:
        super().__init__(protocol, transport, *rest)
        self._prepared: dict[str, PreparedStatement] = {}
        self.known = KnownStatements()
        """Shared by all connections of a dialer."""
        self.get_settings().register_data_types(_ARRAYS)
        connected = transport.get_extra_info("socket")
        if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 5000)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 2)

    async def prepare_in_advance(
        self, statements: Sequence[str], is_needed: Callable[[], object]
    ) -> None:
        """Prepare these statements: all that another connection has prepared in one round trip, the
        others in one each, as long as ``is_needed()`` is false.
        """
        adapted = {sql: self.known.adapt(self, sql) for sql in statements}
        texts = [f"PREPARE {self.known.name(sql)} AS {sql}" for sql in statements if adapted[sql]]
        if texts:
            await self.execute(";".join(texts))
        self._prepared |= {sql: prepared for sql, prepared in adapted.items() if prepared}
        await self._learn([sql for sql in statements if not adapted[sql]], is_needed)

    async def _learn(self, statements: Sequence[str], is_needed: Callable[[], object]) -> None:
        """Prepare statements that no connection knows.

        The driver does not tell the server that it has ended, because it goes on to execute. Until
        then a transaction is open, and the time of the statement runs.
        """
        now = asyncio.get_running_loop().time
        began = math.inf
        for sql in statements:
            if is_needed():
                break
            began = min(began, now())
            await self._prepare_in_time(sql)
            if now() - began > OPEN_TIMEOUT:
                await self.execute("SELECT")
                began = math.inf
        if began < math.inf:
            await self.execute("SELECT")

    async def fetch_in_time(self, sql: str, *parameters: Any) -> list[Any]:
        """The rows of a statement: one round trip if it is prepared, else two, which have the time
        of one each.
        """
        prepared = self._prepared.get(sql) or await self._prepare_in_time(sql)
        try:
            rows: list[Any] = await prepared.fetch(*parameters, timeout=COMMAND_TIMEOUT)
        except asyncpg.InvalidCachedStatementError:  # a column has changed, nothing was done
            self.known.forget(sql)
            prepared = await self._prepare_in_time(sql)
            rows = await prepared.fetch(*parameters, timeout=COMMAND_TIMEOUT)
        return rows

    async def value_in_time(self, sql: str) -> Any:
        """The first value of the first row."""
        [[value, *_], *_] = await self.fetch_in_time(sql)
        return value

    async def _prepare_in_time(self, sql: str) -> PreparedStatement:
        prepared: PreparedStatement = await self.prepare(
            sql, name=self.known.name(sql), timeout=COMMAND_TIMEOUT
        )
        self._prepared[sql] = prepared
        self.known.add(sql, prepared)
        return prepared


class PostgresDialer:
    """Makes connections to the server that a URL names."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        self._known = KnownStatements()
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
                timeout=CONNECT_TIMEOUT,  # pyright: ignore[reportArgumentType]  # any number does
                command_timeout=LONGEST_COMMAND,
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
        connection.known = self._known
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


async def drop(connection: Any) -> None:
    """Close a connection without waiting for the server."""
    connection.terminate()
