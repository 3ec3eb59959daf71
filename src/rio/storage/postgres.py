"""The three roles on PostgreSQL.

What waits at the same moment goes to the server as one statement: callers of the frequent
statements (claim, look up, release, load and fence, save) are gathered into arrays, and each learns
its own fate. A lease has a connection of its own, so that no queue can make it run out. Changes of
the membership are heard of by ``LISTEN`` within milliseconds.

Every step has a deadline, on the server and here, and nothing waits for a connection whose server
is gone: it is dropped and replaced. Connect to PostgreSQL itself, or to a pooler in session mode:
settings, prepared statements and ``LISTEN`` belong to a session.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar, TypeVarTuple
from urllib.parse import parse_qsl, urlencode, urlsplit

import asyncpg

from rio.errors import (
    ConfigurationError,
    RioError,
    SchemaMismatch,
    StorageClosed,
    StorageUnavailable,
)
from rio.storage import _sql
from rio.storage._circuit import PAUSE, WAIT_TIMEOUT, Circuit
from rio.storage._sql import (
    SCHEMA_VERSION,
    Operation,
    Row,
    SqlDatabase,
    SqlMembershipStorage,
    SqlObjectPlacement,
    SqlState,
    Statement,
    check_schema_version,
)

__all__ = [
    "PostgresDatabase",
    "PostgresMembershipStorage",
    "PostgresObjectPlacement",
    "PostgresState",
    "PostgresStatistics",
]

logger = logging.getLogger("rio.storage")

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CONNECT_TIMEOUT = 3
"""Seconds for one attempt to connect."""
COMMAND_TIMEOUT = 2.0
"""Seconds for one statement.

The server cancels it a little earlier, which leaves the connection usable.
"""
GRACE = 1.0
"""Seconds that a connection whose time is up may take to say so before it is dropped."""
MAX_BATCH = 256
"""Rows of one statement."""
MAX_BATCH_BYTES = 1 << 22
"""States of one statement, if it is more than one."""
CHANNEL = "rio_members"

_KEY = (
    "type_name BYTEA NOT NULL, id BYTEA NOT NULL"  # UTF-8: the text of PostgreSQL cannot hold NUL
)
_SCHEMA = f"""
    CREATE TABLE rio_cluster (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        schema_version BIGINT NOT NULL,
        sv BIGINT NOT NULL,
        generation_high BIGINT NOT NULL
    );
    INSERT INTO rio_cluster VALUES (1, {SCHEMA_VERSION}, 0, 0);
    CREATE TABLE rio_member (
        generation BIGINT PRIMARY KEY,
        address TEXT NOT NULL,
        status BIGINT NOT NULL,
        lease_counter BIGINT NOT NULL,
        metadata BYTEA NOT NULL,
        votes BYTEA NOT NULL
    ) WITH (fillfactor = 50);
    CREATE SEQUENCE rio_token;
    CREATE TABLE rio_placement ({_KEY}, generation BIGINT, token BIGINT NOT NULL, PRIMARY KEY (type_name, id));
    CREATE INDEX rio_placement_generation ON rio_placement (generation);
    CREATE TABLE rio_state (
        {_KEY}, state_name BYTEA NOT NULL, version BIGINT NOT NULL, token BIGINT NOT NULL, data BYTEA NOT NULL,
        PRIMARY KEY (type_name, id, state_name)
    ) WITH (fillfactor = 70);
    CREATE FUNCTION rio_tell_members() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_notify('{CHANNEL}', NEW.sv || ' ' || TG_TABLE_SCHEMA); RETURN NULL; END $$;
    CREATE TRIGGER rio_tell_members AFTER UPDATE OF sv ON rio_cluster FOR EACH ROW EXECUTE FUNCTION rio_tell_members();
"""

_SETTINGS = {
    "application_name": "rio",
    "default_transaction_isolation": "read committed",
    "statement_timeout": f"{COMMAND_TIMEOUT * 900:.0f}",
    "idle_in_transaction_session_timeout": f"{COMMAND_TIMEOUT * 1000:.0f}",
    "tcp_user_timeout": "5000",
    "tcp_keepalives_idle": "5",
    # Statements find rows by their keys. A plan made while a table was small must not read all of
    # it when it is not.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    # planning one of them for its values takes longer than running it
    "plan_cache_mode": "force_generic_plan",
}


# --- statements for many at once ------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Batch:
    """A statement of :mod:`rio.storage._sql` for arrays of its parameters.

    It returns the rows' keys, then what the single one returns.
    """

    one: str
    """The single one."""
    many: str
    role: str
    key: slice
    """Which parameters are the row's key. A key is in a batch only once."""
    repeatable: bool
    """Whether doing it twice does no harm, so that one whose answer was lost is simply done again.
    """


_NEXT_TOKEN = "nextval('rio_token')"

# The new token of a row that exists is drawn under the row's lock, so that a claim which had to
# wait cannot bring an older one.
_CLAIM = f"""
    WITH asked AS MATERIALIZED (
        SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bigint[]) AS a (type_name, id, generation, supersede)
    )
    INSERT INTO rio_placement AS p (type_name, id, generation, token)
    SELECT type_name, id, generation, {_NEXT_TOKEN} FROM asked
    ON CONFLICT (type_name, id) DO UPDATE SET generation = excluded.generation, token = {_NEXT_TOKEN}
    WHERE p.generation IS NULL OR p.generation = excluded.generation
       OR (p.type_name, p.id, p.token) IN (SELECT type_name, id, supersede FROM asked)
    RETURNING type_name, id, generation, token
"""
_LOOKUP = """
    SELECT type_name, id, p.generation, p.token
    FROM unnest($1::bytea[], $2::bytea[]) AS a (type_name, id) JOIN rio_placement AS p USING (type_name, id)
"""
_RELEASE = """
    UPDATE rio_placement AS p SET generation = NULL
    FROM unnest($1::bytea[], $2::bytea[], $3::bigint[]) AS a (type_name, id, token)
    WHERE p.type_name = a.type_name AND p.id = a.id AND p.token = a.token AND p.generation IS NOT NULL
    RETURNING p.type_name, p.id, p.token
"""
_LOAD_AND_FENCE = """
    INSERT INTO rio_state AS s (type_name, id, state_name, version, token, data)
    SELECT type_name, id, state_name, 0, token, data
    FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bigint[], $5::bytea[]) AS a (type_name, id, state_name, token, data)
    ON CONFLICT (type_name, id, state_name) DO UPDATE SET token = excluded.token WHERE s.token <= excluded.token
    RETURNING type_name, id, state_name, version, data
"""
_SAVE = """
    UPDATE rio_state AS s SET version = s.version + 1, data = a.data
    FROM unnest($1::bytea[], $2::bytea[], $3::bytea[], $4::bytea[], $5::bigint[], $6::bigint[])
        AS a (data, type_name, id, state_name, token, version)
    WHERE s.type_name = a.type_name AND s.id = a.id AND s.state_name = a.state_name AND s.token = a.token AND s.version = a.version
    RETURNING s.type_name, s.id, s.state_name, s.version
"""


def _numbered(statement: str) -> str:
    """The statement with PostgreSQL's placeholders."""
    first, *rest = statement.split("?")
    return first + "".join(f"${number}{part}" for number, part in enumerate(rest, 1))


_ANY_CLAIM = _sql.CLAIM.format(next_token=_NEXT_TOKEN)
_ONE_CLAIM = _numbered(_ANY_CLAIM.replace("token = excluded.token", f"token = {_NEXT_TOKEN}"))
_BATCHES = {
    _ANY_CLAIM: _Batch(_ONE_CLAIM, _CLAIM, "placement", slice(0, 2), repeatable=True),
    _sql.LOOKUP: _Batch(_numbered(_sql.LOOKUP), _LOOKUP, "placement", slice(0, 2), repeatable=True),
    _sql.RELEASE: _Batch(
        _numbered(_sql.RELEASE), _RELEASE, "placement", slice(0, 2), repeatable=False
    ),
    _sql.LOAD_AND_FENCE: _Batch(
        _numbered(_sql.LOAD_AND_FENCE), _LOAD_AND_FENCE, "state", slice(0, 3), repeatable=True
    ),
    _sql.SAVE: _Batch(_numbered(_sql.SAVE), _SAVE, "state", slice(1, 4), repeatable=False),
}


def _as_bytes(parameters: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(value.encode() if isinstance(value, str) else value for value in parameters)


# --- errors ---------------------------------------------------------------------------------------

_WHAT_TO_DO = {
    "08": "the connection was lost: it may have been done or not",
    "25": "it is read-only, a standby for instance: have the URL name the primary, or all servers",
    "28": "it refused the login: look at the user, the password and pg_hba.conf",
    "3D": "the database does not exist: create it, or choose another one",
    "40": "another transaction was in the way, nothing was done",
    "53": "it has run out of disk, memory or connections: look at its log and its limits",
    "55": "the row is locked by somebody else, nothing was done",
    "57": "it is shutting down, starting up, or took too long: it may have been done or not",
}
_LOST_CONNECTION = ("08", "25", "57P")
"""Beginnings of the SQLSTATEs after which a connection is of no more use."""
_NO_CONNECTION = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError)


def _sqlstate(error: BaseException | None) -> str:
    return getattr(error, "sqlstate", None) or ""


def _explained(where: str, error: Exception) -> Exception:
    """The error that callers get: those of the driver are translated, anything else is theirs."""
    state = _sqlstate(error)
    if isinstance(error, RioError) or state.startswith(
        "22"
    ):  # a value that the driver or the server cannot take
        return error
    if state.startswith("42"):
        return SchemaMismatch(
            f"{where}: its tables are not those of this version of rio, or not for this user ({error})"
        )
    if state.startswith("3F"):
        return ConfigurationError(
            f"{where}: the search_path names no schema that exists: create it first ({error})"
        )
    if state:
        return StorageUnavailable(
            f"{where}: {_WHAT_TO_DO.get(state[:2], 'PostgreSQL could not do it')} ({error})"
        )
    if isinstance(error, _NO_CONNECTION):
        return StorageUnavailable(
            f"{where}: the connection was lost or too slow: it may have been done or not ({error!r})"
        )
    return error


# --- connections ----------------------------------------------------------------------------------


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that notices within seconds when the other machine is gone."""

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


_NOT_NOW = (
    OSError,  # and with it TimeoutError
    asyncpg.InternalClientError,  # the server said farewell in the middle of its greeting
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.exceptions.TargetServerAttributeNotMatched,
)
"""What an attempt to connect may fail with while a server is restarted or another one takes over.
"""


class _Target:
    """Where to connect to, and how."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        login, at, hosts = parts.netloc.rpartition("@")
        self.where = f"postgres://{login.partition(':')[0]}{at}{hosts}{parts.path}"
        """The URL without its password and options, for people."""
        self._dsn = parts._replace(scheme="postgresql", query=urlencode(options)).geturl()
        self._settings = {name: value for name, value in _SETTINGS.items() if name not in options}
        self._attributes = None if "target_session_attrs" in options else "read-write"
        self._keep_commit = "synchronous_commit" in options

    async def dial(self) -> Any:
        """A new connection.

        :raises ConfigurationError: the URL cannot work.
        :raises StorageUnavailable: the server does not let us in.
        :raises OSError: or another of ``_NOT_NOW``: it may do so later.
        """
        try:
            connection = await asyncpg.connect(
                self._dsn,
                timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                connection_class=_Connection,
                server_settings=self._settings,
                target_session_attrs=self._attributes,
            )
        except _NOT_NOW:
            raise
        except (asyncpg.InterfaceError, ValueError) as error:
            raise ConfigurationError(f"{self.where}: {error}") from error
        except asyncpg.PostgresError as error:
            if _sqlstate(error).startswith("42"):
                raise ConfigurationError(
                    f"{self.where}: an option of the URL is not known to the server: {error}"
                ) from error
            raise _explained(self.where, error) from error
        if not self._keep_commit:
            await self._insist_on_commit(connection)
        return connection

    async def _insist_on_commit(self, connection: Any) -> None:
        """What has returned is durable, even where the server's default is otherwise; only the URL
        may say ``synchronous_commit=off``.
        """
        try:
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
            )
        except BaseException:
            connection.terminate()
            raise


class _Pool:
    """At most ``size`` connections, made when they are needed.

    One that is lost is replaced by whoever needs the next.
    """

    def __init__(self, target: _Target, size: int) -> None:
        self._where = target.where
        self._circuit = Circuit(target.where, target.dial, _NOT_NOW)
        self._idle: list[Any] = []
        self._size = size
        self._turns = asyncio.Semaphore(size)

    async def run(self, action: Callable[[Any], Awaitable[T]], *, repeatable: bool = False) -> T:
        """``await action(connection)``, which is not cancelled from outside.

        It is done again if nothing of it was sent; and a repeatable one, once, if the connection
        was lost.

        :raises StorageUnavailable: there was no connection, or not in time, or it was lost.
        """
        try:
            await self._wait_for_turn()
            try:
                return await self._run(action, repeatable)
            finally:
                self._turns.release()
        except Exception as error:
            explained = _explained(self._where, error)
            if explained is error:
                raise
            raise explained from error

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*map(_close, idle))

    async def _wait_for_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(WAIT_TIMEOUT):
                await self._turns.acquire()
        except TimeoutError as error:
            raise StorageUnavailable(
                f"{self._where}: all connections are busy, nothing was done"
            ) from error

    async def _run(self, action: Callable[[Any], Awaitable[T]], repeatable: bool) -> T:
        for _ in range(self._size):  # each may be one that was terminated while it was idle
            connection = await self._take()
            try:
                return await self._use(connection, action)
            except Exception as error:
                if not _was_not_sent(error):
                    if not (repeatable and connection.is_closed()) or isinstance(
                        error, TimeoutError
                    ):
                        raise
                    repeatable = False
                logger.debug(
                    "%s: a connection was lost (%r), its statement is sent again",
                    self._where,
                    error,
                )
        return await self._use(await self._take(), action)

    async def _use(self, connection: Any, action: Callable[[Any], Awaitable[T]]) -> T:
        loop = asyncio.get_running_loop()
        overdue = loop.call_later(
            COMMAND_TIMEOUT + GRACE, connection.terminate
        )  # the driver may wait for ever for a farewell
        try:
            result = await action(connection)
        except BaseException as error:
            if isinstance(error, TimeoutError) or overdue.when() <= loop.time():
                self._drop_idle()  # nothing is answered: the others would wait as long in vain
            if (
                connection.is_closed()
                or not _leaves_usable(error)
                or connection.is_in_transaction()
            ):
                connection.terminate()
            else:
                self._idle.append(connection)
            raise
        finally:
            overdue.cancel()
        self._idle.append(connection)
        return result

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    async def _take(self) -> Any:
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        return await self._circuit.connect()


def _was_not_sent(error: Exception) -> bool:
    """Whether the driver refused because the server has said farewell, which it does some moments
    before the connection is closed.
    """
    return isinstance(error, asyncpg.InternalClientError) and str(error).startswith(
        "cannot switch to state"
    )


def _leaves_usable(error: BaseException) -> bool:
    return isinstance(error, asyncpg.PostgresError) and not _sqlstate(error).startswith(
        _LOST_CONNECTION
    )


async def _close(connection: Any) -> None:
    try:
        await connection.close(timeout=GRACE)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        logger.debug("a connection did not close: %r", error)
        connection.terminate()


# --- lanes ----------------------------------------------------------------------------------------


class _Waiting(NamedTuple):
    """One row of a batch to be, and the caller who waits for it."""

    batch: _Batch
    parameters: tuple[Any, ...]
    future: asyncio.Future[list[Row]]
    since: float

    def settle(self, rows: list[Row]) -> None:
        if not self.future.done():  # the caller was cancelled meanwhile
            self.future.set_result(rows)

    def fail(self, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


_Key = tuple[Any, ...]
_Group = dict[_Key, _Waiting]
"""Rows of one batch, by their keys."""


class _Lane:
    """Those who wait for the statements of one table, served in rounds: the first in line for each
    key, in a batch for each statement.

    So what is asked of one key is done in that order. Callers only ever wait for a future, and
    cancelling one disturbs nobody.
    """

    def __init__(self, pool: _Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[_Key, deque[_Waiting]] = {}
        self._serving: asyncio.Task[None] | None = None
        self.rows = 0
        """Rows that were asked for."""
        self.statements = 0

    def submit(self, batch: _Batch, parameters: tuple[Any, ...]) -> asyncio.Future[list[Row]]:
        future: asyncio.Future[list[Row]] = self._loop.create_future()
        waiting = _Waiting(batch, parameters, future, self._loop.time())
        self._waiting.setdefault(parameters[batch.key], deque()).append(waiting)
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve())
        return future

    async def settled(self) -> None:
        """Return when nobody waits."""
        if self._serving is not None:
            await asyncio.wait((self._serving,))

    async def _serve(self) -> None:
        """As a task it begins one turn of the loop after it is made, so that whoever else asks
        meanwhile can join.
        """
        while self._waiting:
            groups = self._take()
            if len(groups) == 1:
                await self._send(groups[0])
            else:
                await asyncio.gather(*map(self._send, groups))
            await asyncio.sleep(0)  # after those who were just answered, who may have more
        self._serving = None

    def _take(self) -> list[_Group]:
        """The next round, up to the limits."""
        groups: dict[_Batch, _Group] = {}
        oldest = self._loop.time() - WAIT_TIMEOUT
        rows = size = 0
        for key in list(self._waiting):
            waiting = self._pop(key)
            if waiting.since < oldest:
                waiting.fail(
                    StorageUnavailable(
                        "PostgreSQL was too slow for those before: it was not asked, nothing was done"
                    )
                )
            elif not waiting.future.done():
                groups.setdefault(waiting.batch, {})[key] = waiting
                rows += 1
                size += sum(len(value) for value in waiting.parameters if isinstance(value, bytes))
                if rows == MAX_BATCH or size > MAX_BATCH_BYTES:
                    break
        return list(groups.values())

    def _pop(self, key: _Key) -> _Waiting:
        line = self._waiting[key]
        first = line.popleft()
        if not line:
            del self._waiting[key]
        return first

    async def _send(self, group: _Group) -> None:
        """Give each caller the fate of its row; this raises nothing."""
        try:
            found = await self._fetch(group)
        except Exception as error:
            if len(group) > 1 and _concerns_one_row(error):
                for (
                    key,
                    waiting,
                ) in group.items():  # nothing was done: whose fault it is shows when each is alone
                    await self._send({key: waiting})
            else:
                for waiting in group.values():
                    waiting.fail(error)
        else:
            for key, waiting in group.items():
                waiting.settle([found[key]] if key in found else [])

    async def _fetch(self, group: _Group) -> dict[_Key, Row]:
        """The rows by their keys."""
        self.rows += len(group)
        self.statements += 1
        if len(group) == 1:
            [(key, waiting)] = group.items()
            rows = await self._ask(waiting.batch, waiting.batch.one, waiting.parameters)
            return {key: tuple(rows[0])} if rows else {}
        ordered = [
            group[key] for key in sorted(group)
        ]  # so that two batches never wait for each other in a circle
        batch = ordered[0].batch
        rows = await self._ask(
            batch, batch.many, [*zip(*(waiting.parameters for waiting in ordered), strict=True)]
        )
        width = batch.key.stop - batch.key.start
        return {tuple(row[:width]): tuple(row[width:]) for row in rows}

    async def _ask(self, batch: _Batch, sql: str, parameters: Sequence[Any]) -> list[Any]:
        def fetch(connection: Any) -> Awaitable[list[Any]]:
            return connection.fetch(sql, *parameters)  # type: ignore[no-any-return]  # the driver has no types

        return await self._pool.run(fetch, repeatable=batch.repeatable)


def _concerns_one_row(error: Exception) -> bool:
    """A bad value, or a circle of locks."""
    cause = error.__cause__ if isinstance(error, StorageUnavailable) else error
    return _sqlstate(cause).startswith(("22", "40"))


# --- hearing of changes ---------------------------------------------------------------------------


class _Listener:
    """Hears of each new version of the membership, on a connection of its own.

    While that is lost, those who wait are timed out.
    """

    def __init__(self, target: _Target) -> None:
        self._target = target
        self._heard = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._listening: asyncio.Task[None] | None = None

    async def wait(self, version: int, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        if self._listening is None:
            self._listening = loop.create_task(self._listen())
        if self._heard > version:
            return
        change = loop.create_future()
        self._waiting.add(change)
        try:
            await asyncio.wait((change,), timeout=timeout)
        finally:
            self._waiting.discard(change)

    async def close(self) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait((self._listening,))
            self._listening = None
        self._wake()

    async def _listen(self) -> None:
        while True:
            try:
                await self._listen_once()
            except (
                RioError,
                OSError,
                asyncpg.PostgresError,
                asyncpg.InterfaceError,
                asyncpg.InternalClientError,
            ) as error:
                logger.debug(
                    "%s: nothing is heard of the membership, it is polled: %r",
                    self._target.where,
                    error,
                )
            await asyncio.sleep(random.uniform(0.5, 1.0) * PAUSE)

    async def _listen_once(self) -> None:
        connection = await self._target.dial()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            own_schema = await connection.fetchval("SELECT current_schema()")

            def hear(connection: Any, pid: int, channel: str, payload: str) -> None:
                version, _, schema = payload.partition(" ")
                if schema == own_schema:
                    self._heard = int(version)
                    self._wake()

            await connection.add_listener(CHANNEL, hear)
            self._wake()  # there may have been changes before
            await lost.wait()
        finally:
            connection.terminate()

    def _wake(self) -> None:
        for change in self._waiting:
            if not change.done():
                change.set_result(None)


# --- the database and the roles on it -------------------------------------------------------------


class PostgresStatistics(NamedTuple):
    """What the lanes of a database have done since it was opened."""

    rows: int
    """Claims, look-ups, releases, loads and saves."""
    statements: int
    """The statements in which they went to the server; fewer than ``rows`` where they were
    gathered.
    """


class _Open(NamedTuple):
    """What an open database consists of."""

    pool: _Pool
    lease: _Pool
    lanes: dict[str, _Lane]
    listener: _Listener
    tasks: set[asyncio.Task[Any]]
    """Statements under way on behalf of callers, who may be gone."""


class PostgresDatabase(SqlDatabase):
    """One PostgreSQL database (and ``search_path``), for roles to share."""

    next_token = _NEXT_TOKEN
    _opened: _Open | None = None

    def __init__(self, url: str, /, *, pool_size: int = 5) -> None:
        """:param url: ``postgres://user:password@host:port/database``, with several hosts where
        one may take over from another. Its options
            are those of libpq (``sslmode``, ``target_session_attrs``) and settings of the session (``search_path``).
        :param pool_size: connections at most, besides one for the lease and one that listens.

        :raises ConfigurationError: the URL is none of PostgreSQL, or there would be no connection.
        """
        super().__init__()
        if urlsplit(url).scheme not in ("postgres", "postgresql"):
            raise ConfigurationError(
                f"{url!r} is no URL of PostgreSQL: write postgres://user:password@host:port/database"
            )
        if pool_size < 1:
            raise ConfigurationError(f"pool_size must be at least 1, got {pool_size}")
        self._target = _Target(url)
        self._pool_size = pool_size

    def __repr__(self) -> str:
        return f"PostgresDatabase({self._target.where!r})"

    def statistics(self) -> PostgresStatistics:
        """What was done since the database was opened.

        :raises StorageClosed: it is not open.
        """
        lanes = self._get().lanes.values()
        return PostgresStatistics(
            sum(lane.rows for lane in lanes), sum(lane.statements for lane in lanes)
        )

    async def write(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        """One after the other in the whole cluster, as SQLite does it too: these are the rare ones."""

        async def transact(connection: Any) -> T:
            await connection.execute("BEGIN; SELECT FROM rio_cluster FOR UPDATE")
            result = await _drive(operation(*args), _fetching(connection))
            await connection.execute("COMMIT")
            return result

        return await self._detached(self._get().pool.run(transact))

    async def write_each(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        return await _drive(operation(*args), self._step)

    async def write_apart(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        def run(connection: Any) -> Awaitable[T]:
            return _drive(operation(*args), _fetching(connection))

        return await self._detached(self._get().lease.run(run, repeatable=True))

    async def read(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> T:
        return await _drive(operation(*args), self._step)

    async def wait_for_change(self, version: int, timeout: float) -> None:
        await self._get().listener.wait(version, timeout)

    async def _step(self, statement: str, parameters: Sequence[Any]) -> list[Row]:
        batch = _BATCHES.get(statement)
        if batch is not None:
            return await self._get().lanes[batch.role].submit(batch, _as_bytes(parameters))
        run = self._get().pool.run(
            lambda connection: _fetching(connection)(statement, parameters), repeatable=True
        )
        return await self._detached(run)

    async def _detached(self, run: Awaitable[T]) -> T:
        """Have it run to its end whatever happens to the caller, so that no connection is left in
        the middle of a statement.
        """
        tasks = self._get().tasks
        task = asyncio.ensure_future(run)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_look_at)
        return await asyncio.shield(task)

    def _get(self) -> _Open:
        if self._opened is None:
            raise StorageClosed(f"{self!r} is not open: call prepare() on a role that uses it")
        return self._opened

    async def _open(self) -> None:
        pool = _Pool(self._target, self._pool_size)
        try:
            found = await pool.run(_prepare_schema)
            check_schema_version(self._target.where, found)
        except BaseException:
            await pool.close()
            raise
        lanes = {batch.role: _Lane(pool) for batch in _BATCHES.values()}
        self._opened = _Open(pool, _Pool(self._target, 1), lanes, _Listener(self._target), set())

    async def _close(self) -> None:
        opened, self._opened = self._get(), None
        await opened.listener.close()
        await asyncio.gather(*(lane.settled() for lane in opened.lanes.values()))
        if opened.tasks:
            await asyncio.wait(opened.tasks)
        await asyncio.gather(opened.pool.close(), opened.lease.close())

    def __del__(self) -> None:
        if self._opened is not None:
            warnings.warn(
                f"{self!r} was not closed: use 'async with', or call close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


def _fetching(connection: Any) -> Callable[[str, Sequence[Any]], Awaitable[list[Row]]]:
    async def fetch(statement: str, parameters: Sequence[Any]) -> list[Row]:
        return [tuple(row) for row in await connection.fetch(_numbered(statement), *parameters)]

    return fetch


async def _drive(
    operation: Operation[T], step: Callable[[str, Sequence[Any]], Awaitable[list[Row]]]
) -> T:
    """Run an operation by awaiting each of its statements."""
    statement: Statement
    try:
        statement = next(operation)
        while True:
            statement = operation.send(await step(*statement))
    except StopIteration as end:
        result: T = end.value
        return result


def _look_at(task: asyncio.Task[Any]) -> None:
    """Take note of a failure that nobody waits for any more."""
    if not task.cancelled() and task.exception() is not None:
        logger.debug("a statement failed: %r", task.exception())


_HAS_SCHEMA = "SELECT count(*) FROM pg_class WHERE relname = 'rio_cluster' AND pg_table_is_visible(oid)"  # to_regclass() may be stale


async def _prepare_schema(connection: Any) -> int:
    """Create the tables where there are none, and return their version.

    Of many who do so at once, one does.
    """
    if not await connection.fetchval(_HAS_SCHEMA):
        await connection.execute("BEGIN; SELECT pg_advisory_xact_lock(hashtext('rio'))")
        if not await connection.fetchval(_HAS_SCHEMA):
            await connection.execute(_SCHEMA)
        await connection.execute("COMMIT")
    version: int = await connection.fetchval(
        "SELECT coalesce(max(schema_version), 0) FROM rio_cluster"
    )
    return version


def _database(where: str | PostgresDatabase) -> PostgresDatabase:
    return where if isinstance(where, PostgresDatabase) else PostgresDatabase(where)


class PostgresMembershipStorage(SqlMembershipStorage):
    """Members in PostgreSQL: a URL, or a database shared with other roles."""

    def __init__(self, where: str | PostgresDatabase, /) -> None:
        self._postgres = _database(where)
        super().__init__(self._postgres)

    async def wait_for_change(self, version: int, timeout: float) -> None:
        self._check_open()
        await self._postgres.wait_for_change(version, timeout)


class PostgresObjectPlacement(SqlObjectPlacement):
    """Placements in PostgreSQL: a URL, or a database shared with other roles."""

    def __init__(self, where: str | PostgresDatabase, /) -> None:
        super().__init__(_database(where))


class PostgresState(SqlState):
    """States in PostgreSQL: a URL, or a database shared with other roles."""

    def __init__(self, where: str | PostgresDatabase, /) -> None:
        super().__init__(_database(where))
