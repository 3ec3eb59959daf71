"""The three roles on Redis, or Valkey.

Each operation is one Lua script, which is atomic, and its answer says who owns what, so that a
script which is repeated after a lost answer recognises itself. Nothing is repeated here. What waits
at the same moment goes to the server in one write, and claims, look-ups and releases as one script;
the lease has a connection of its own.

Versions, generations and tokens are at least the server's time in microseconds: they grow even if
Redis loses what it held. All else it may lose, so it must have an append-only file; a standby of
its own is asynchronous and may lack the newest writes when it takes over.

The keys of one table share a hash tag, so that each script finds all its keys on one server. Parts
of names are prefixed by their length.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import warnings
from collections.abc import Awaitable, Sequence
from itertools import groupby
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl, urlencode, urlsplit

import hiredis
from redis import exceptions
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    StatusChange,
    Vote,
    add_vote,
    check_forward,
    check_metadata,
    decode_votes,
    encode_votes,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import StateStorage, StoredState
from rio.errors import (
    ConfigurationError,
    SchemaMismatch,
    StateCorrupt,
    StateNotFound,
    StorageClosed,
    StorageUnavailable,
    Superseded,
)
from rio.identity import ObjectId
from rio.storage._circuit import WAIT_TIMEOUT, Circuit
from rio.storage._sharing import SharedDatabase, SharingRole

__all__ = [
    "RedisDatabase",
    "RedisMembershipStorage",
    "RedisObjectPlacement",
    "RedisState",
    "RedisStatistics",
]

logger = logging.getLogger("rio.storage")

T = TypeVar("T")

SCHEMA_VERSION = 1
CONNECT_TIMEOUT = 2.0
"""Seconds for one attempt to connect."""
COMMAND_TIMEOUT = 2.0
"""Seconds for one write and its answers; then the connection is dropped."""
MAX_BATCH = 512
"""Commands of one write."""
MAX_BATCH_BYTES = 1 << 22
"""Bytes of one write, if it is more than one command."""


# --- scripts --------------------------------------------------------------------------------------


class Script:
    """A Lua script.

    One for many takes any number of rows of arguments, all with the same keys, and answers with a
    list.
    """

    def __init__(self, text: str, *, many: bool = False) -> None:
        self.text = text.encode()
        self.many = many
        self.name = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()


_NEXT = """
local function next_after(high)  -- larger than any before, even if those were lost
    local time = redis.call('TIME')
    return math.max(high + 1, time[1] * 1000000 + time[2])
end
local function text(number) return string.format('%.0f', number) end
"""

_MEMBERS = (
    _NEXT
    + """
local cluster, addresses, statuses, leases, metadata, votes = unpack(KEYS)
local function raise_version()
    local version = redis.call('HGET', cluster, 'version') or 0
    redis.call('HSET', cluster, 'version', text(next_after(tonumber(version))))
end
local function status_of(generation) return tonumber(redis.call('HGET', statuses, generation) or 9) end
local function member(generation)
    local status = redis.call('HGET', statuses, generation)
    if not status then return {} end
    return {generation, redis.call('HGET', addresses, generation), status, redis.call('HGET', leases, generation),
            redis.call('HGET', metadata, generation), redis.call('HGET', votes, generation)}
end
local function snapshot()
    local all = redis.call('HKEYS', statuses)
    for index, generation in ipairs(all) do all[index] = member(generation) end
    local high = redis.call('HMGET', cluster, 'version', 'generation')
    return {high[1] or '0', high[2] or '0', all}
end
"""
)

REGISTER = Script(
    _MEMBERS
    + """
local address, about, no_votes = unpack(ARGV)
for _, older in ipairs(redis.call('HKEYS', statuses)) do
    if redis.call('HGET', addresses, older) == address and status_of(older) < 4 then redis.call('HSET', statuses, older, 5) end
end
local generation = text(next_after(tonumber(redis.call('HGET', cluster, 'generation') or 0)))
redis.call('HSET', cluster, 'generation', generation)
redis.call('HSET', addresses, generation, address)
redis.call('HSET', statuses, generation, 0)
redis.call('HSET', leases, generation, 0)
redis.call('HSET', metadata, generation, about)
redis.call('HSET', votes, generation, no_votes)
raise_version()
return {generation, snapshot()}
"""
)
RENEW = Script(
    _MEMBERS
    + """
if status_of(ARGV[1]) > 2 then return 0 end
redis.call('HINCRBY', leases, ARGV[1], 1)
return 1
"""
)
SNAPSHOT = Script(_MEMBERS + "return snapshot()")
SET_STATUS = Script(
    _MEMBERS
    + """
local generation, expected, status, counter = unpack(ARGV)
local fits = redis.call('HGET', statuses, generation) == expected
if counter ~= '' then fits = fits and redis.call('HGET', leases, generation) == counter end
if fits then
    redis.call('HSET', statuses, generation, status)
    raise_version()
end
return {fits and 1 or 0, member(generation)}
"""
)
VOTE = Script(
    _MEMBERS
    + """
local generation, voter, expected, ballot = unpack(ARGV)
local function answer(fate) return {fate, member(generation)} end
if status_of(generation) >= 4 or status_of(voter) ~= 1 then return answer('refused') end
if redis.call('HGET', votes, generation) ~= expected then return answer('changed') end
redis.call('HSET', votes, generation, ballot)
return answer('counted')
"""
)
PURGE = Script(
    _MEMBERS
    + """
local status = status_of(ARGV[1])
if status ~= 4 and status ~= 5 then return 0 end
for _, column in ipairs({addresses, statuses, leases, metadata, votes}) do redis.call('HDEL', column, ARGV[1]) end
raise_version()
return 1
"""
)

_PLACEMENTS = """
local placements, owned = unpack(KEYS)
local answers = {}
local function read(id)
    local row = redis.call('HGET', placements, id)
    if row then return row, string.match(row, '^(%d*):(%d+)$') end
end
"""

CLAIM = Script(
    _NEXT
    + _PLACEMENTS
    + """
local high = tonumber(redis.call('HGET', placements, '') or 0)
local before = high
for index = 1, #ARGV, 3 do
    local id, generation, supersede = ARGV[index], ARGV[index + 1], ARGV[index + 2]
    local row, owner, token = read(id)
    if not row or owner == '' or owner == generation or token == supersede then
        high = next_after(high)
        row = generation .. ':' .. text(high)
        redis.call('HSET', placements, id, row)
        redis.call('ZADD', owned, generation, id)
    end
    answers[#answers + 1] = row
end
if high > before then redis.call('HSET', placements, '', text(high)) end
return answers
""",
    many=True,
)
LOOKUP = Script(
    _PLACEMENTS
    + """
for index, id in ipairs(ARGV) do answers[index] = redis.call('HGET', placements, id) end
return answers
""",
    many=True,
)
RELEASE = Script(
    _PLACEMENTS
    + """
for index = 1, #ARGV, 2 do
    local id = ARGV[index]
    local row, owner, token = read(id)
    local mine = row and owner ~= '' and token == ARGV[index + 1]
    if mine then
        redis.call('HSET', placements, id, ':' .. token)
        redis.call('ZREM', owned, id)
    end
    answers[#answers + 1] = mine and 1 or 0
end
return answers
""",
    many=True,
)
OWNED_BY = Script("return redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[1], ARGV[1])")

LOAD_AND_FENCE = Script("""
local fence = redis.call('HGET', KEYS[1], 'token')
if fence and tonumber(fence) > tonumber(ARGV[1]) then return {fence} end
redis.call('HSET', KEYS[1], 'token', ARGV[1])
return redis.call('HMGET', KEYS[1], 'token', 'version', 'data')
""")
SAVE = Script("""
local stored = redis.call('HMGET', KEYS[1], 'token', 'version')
if stored[1] ~= ARGV[1] or (stored[2] or '0') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[1], 'version', ARGV[3], 'data', ARGV[4])
return 1
""")

_SCRIPTS = [
    REGISTER,
    RENEW,
    SNAPSHOT,
    SET_STATUS,
    VOTE,
    PURGE,
    CLAIM,
    LOOKUP,
    RELEASE,
    OWNED_BY,
    LOAD_AND_FENCE,
    SAVE,
]


# --- connections ----------------------------------------------------------------------------------

_NOT_NOW = (OSError, exceptions.ConnectionError, exceptions.TimeoutError)

_WHAT_TO_DO = {
    "READONLY": "it is a replica: have the URL name the primary",
    "MASTERDOWN": "it is a replica without its primary",
    "LOADING": "it is loading its data: it will be there soon",
    "OOM": "its memory is full: raise maxmemory, and have maxmemory-policy be noeviction",
    "MISCONF": "it cannot write to its disk, so it refuses writes: look at the disk and its log",
    "NOAUTH": "it wants a password: put it into the URL",
    "WRONGPASS": "it refused the login: look at the user and the password in the URL",
    "NOPERM": "this user lacks a permission: it needs EVAL, EVALSHA, SCRIPT LOAD, INFO and the commands on hashes and sorted sets",
    "BUSY": "it is busy with somebody's script",
    "MOVED": "it is one of a Redis Cluster, and the key lives on another: name a proxy, or a server that holds all keys",
    "CLUSTERDOWN": "its cluster is down",
    "NOREPLICAS": "too few of its replicas are there",
}


_WITHOUT_WORD = [
    (exceptions.ReadOnlyError, "READONLY"),
    (exceptions.OutOfMemoryError, "OOM"),
    (exceptions.NoPermissionError, "NOPERM"),
    (exceptions.MasterDownError, "MASTERDOWN"),
    (exceptions.ClusterDownError, "CLUSTERDOWN"),
    (exceptions.MovedError, "MOVED"),
]
"""Errors whose first word the driver takes away."""


def _explained(where: str, error: Exception) -> Exception:
    """The error that callers get: those of the driver are translated, anything else is theirs."""
    if isinstance(error, exceptions.ResponseError) and not isinstance(error, _NOT_NOW):
        word = next(
            (word for cls, word in _WITHOUT_WORD if isinstance(error, cls)),
            str(error).partition(" ")[0],
        )
        if word == "WRONGTYPE":
            return SchemaMismatch(
                f"{where}: a key of rio holds something else: choose another namespace, or another database ({error})"
            )
        return StorageUnavailable(
            f"{where}: {_WHAT_TO_DO.get(word, 'Redis could not do it')} ({error})"
        )
    if isinstance(error, (*_NOT_NOW, exceptions.RedisError)):
        return StorageUnavailable(
            f"{where}: the connection was lost or too slow; it may have been done or not ({error!r})"
        )
    return error


class _Target:
    """Where to connect to, and how."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        login, at, hosts = parts.netloc.rpartition("@")
        self.where = f"{parts.scheme}://{login.partition(':')[0]}{at}{hosts}{parts.path}"
        """The URL without its password and options, for people."""
        options = {
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,
            "socket_keepalive": True,
        }
        try:
            self._pool: Any = ConnectionPool.from_url(url, **options)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{self.where}: {error}") from error

    async def dial(self) -> Any:
        """A new connection that knows the scripts.

        :raises StorageUnavailable: the server does not let us in.
        :raises OSError: or another of ``_NOT_NOW``: it may do so later.
        """
        connection: Any = self._pool.make_connection()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()
                await _exchange(
                    connection, [(b"SCRIPT", b"LOAD", script.text) for script in _SCRIPTS]
                )
        except BaseException as error:
            await _drop(connection)
            if isinstance(error, exceptions.AuthenticationError | exceptions.AuthorizationError):
                raise StorageUnavailable(
                    f"{self.where}: {_WHAT_TO_DO['WRONGPASS']} ({error})"
                ) from error
            raise
        return connection


async def _exchange(connection: Any, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
    """The answers to commands that go out in one write; an error that is the answer to one of them
    is in its place.
    """
    await connection.send_packed_command(
        list(map(hiredis.pack_command, commands)), check_health=False
    )
    answers = []
    for _ in commands:
        try:
            answers.append(
                await connection.read_response(timeout=math.inf)
            )  # whoever calls has set a deadline
        except exceptions.ResponseError as error:
            answers.append(error)
    return answers


async def _drop(connection: Any) -> None:
    await connection.disconnect(nowait=True)


# --- lanes ----------------------------------------------------------------------------------------


class _Waiting(NamedTuple):
    """One row of a script, and the caller who waits for its answer."""

    script: Script
    keys: tuple[bytes, ...]
    row: tuple[Any, ...]
    future: asyncio.Future[Any]
    since: float

    def settle(self, answer: Any) -> None:
        if self.future.done():  # the caller was cancelled meanwhile
            return
        if isinstance(answer, Exception):
            self.future.set_exception(answer)
        else:
            self.future.set_result(answer)


_Run = list[_Waiting]
"""Rows that go to the server as one command."""


class _Lane:
    """One connection, and the scripts that wait for it. They are run in the order in which they
    came, as many as wait in one write.

    Callers only ever wait for a future, and cancelling one disturbs nobody.
    """

    def __init__(self, target: _Target) -> None:
        self._where = target.where
        self._circuit = Circuit(target.where, target.dial, _NOT_NOW)
        self._connection: Any = None
        self._loop = asyncio.get_running_loop()
        self._waiting: list[_Waiting] = []
        self._serving: asyncio.Task[None] | None = None
        self.rows = 0
        """Scripts, or rows of scripts for many, that were asked for."""
        self.commands = 0

    def submit(
        self, script: Script, keys: tuple[bytes, ...], row: tuple[Any, ...]
    ) -> asyncio.Future[Any]:
        future = self._loop.create_future()
        self._waiting.append(_Waiting(script, keys, row, future, self._loop.time()))
        if self._serving is None:
            self._serving = self._loop.create_task(self._serve())
        return future

    async def command(self, *words: bytes) -> Any:
        """The answer to a command that is no script, while nobody else uses the lane.

        :raises StorageUnavailable: there was none.
        """
        try:
            answers = await self._send([words])
        except _NOT_NOW as error:
            raise _explained(self._where, error) from error
        if isinstance(answers[0], Exception):
            raise _explained(self._where, answers[0]) from answers[0]
        return answers[0]

    async def close(self) -> None:
        """Serve all who wait, then disconnect."""
        if self._serving is not None:
            await asyncio.wait((self._serving,))
        await self._disconnect()

    async def _serve(self) -> None:
        """As a task it begins one turn of the loop after it is made, so that whoever else asks
        meanwhile can join.
        """
        while self._waiting:
            runs = self._take()
            if runs:
                await self._run(runs)
                await asyncio.sleep(0)  # after those who were just answered, who may have more
        self._serving = None

    def _take(self) -> list[_Run]:
        """The commands of the next write, up to the limits."""
        oldest = self._loop.time() - WAIT_TIMEOUT
        taken: list[_Waiting] = []
        size = count = 0
        for waiting in self._waiting:
            if len(taken) == MAX_BATCH or size > MAX_BATCH_BYTES:
                break
            count += 1
            if waiting.since < oldest:
                waiting.settle(
                    StorageUnavailable(
                        f"{self._where}: it was too slow for those before, nothing was done"
                    )
                )
            elif not waiting.future.done():
                taken.append(waiting)
                size += sum(len(value) for value in waiting.row if isinstance(value, bytes))
        del self._waiting[:count]
        runs: list[_Run] = []
        for script, group in groupby(taken, lambda waiting: waiting.script):
            rows = list(group)
            runs += [rows] if script.many else [[row] for row in rows]
        return runs

    async def _run(self, runs: list[_Run]) -> None:
        """Give each caller the answer to its row; this raises nothing."""
        try:
            answers = await self._send(
                [_command(b"EVALSHA", run[0].script.name, run) for run in runs]
            )
            forgotten = [
                index
                for index, answer in enumerate(answers)
                if isinstance(answer, exceptions.NoScriptError)
            ]
            if forgotten:  # by a restart behind a proxy, or SCRIPT FLUSH
                again = await self._send(
                    [
                        _command(b"EVAL", runs[index][0].script.text, runs[index])
                        for index in forgotten
                    ]
                )
                for index, answer in zip(forgotten, again, strict=True):
                    answers[index] = answer
        except Exception as error:
            answers = [error] * len(runs)
        for run, answer in zip(runs, answers, strict=True):
            self.rows += len(run)
            self.commands += 1
            self._settle(run, answer)

    def _settle(self, run: _Run, answer: Any) -> None:
        if isinstance(answer, Exception):
            answer = _with_cause(_explained(self._where, answer), answer)
        if isinstance(answer, Exception) or not run[0].script.many:
            answer = [answer] * len(run)
        for waiting, own in zip(run, answer, strict=True):
            waiting.settle(own)

    async def _send(self, commands: list[tuple[Any, ...]]) -> list[Any]:
        """
        :raises StorageUnavailable: there was no connection, so nothing was done.
        :raises Exception: of the driver: it may have been done or not, and the connection is gone.
        """
        if self._connection is not None and await self._is_stale():
            await self._disconnect()
        if self._connection is None:
            self._connection = await self._circuit.connect()
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                answers = await _exchange(self._connection, commands)
        except BaseException:
            await self._disconnect()
            raise
        if any(isinstance(answer, exceptions.ReadOnlyError) for answer in answers):
            await (
                self._disconnect()
            )  # by the next attempt, the name in the URL may stand for the new primary
        return answers

    async def _is_stale(self) -> bool:
        """Whether the server has closed the connection, or said something that nobody asked for."""
        try:
            return not self._connection.is_connected or bool(await self._connection.can_read())
        except _NOT_NOW:
            return True

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await _drop(connection)


def _command(verb: bytes, script: bytes, run: _Run) -> tuple[Any, ...]:
    return (
        verb,
        script,
        len(run[0].keys),
        *run[0].keys,
        *(value for waiting in run for value in waiting.row),
    )


def _with_cause(error: Exception, cause: Exception) -> Exception:
    if error is not cause:
        error.__cause__ = cause
    return error


# --- the database ---------------------------------------------------------------------------------


class RedisStatistics(NamedTuple):
    """What a database has done since it was opened."""

    rows: int
    """Operations that were asked for."""
    commands: int
    """The commands in which they went to the server; fewer than ``rows`` where they were gathered.
    """


class _Lanes(NamedTuple):
    """The connections of an open database."""

    lease: _Lane
    members: _Lane
    placement: _Lane
    state: _Lane


class RedisDatabase(SharedDatabase):
    """One database of a Redis server, for roles to share."""

    _lanes: _Lanes | None = None
    why_not_durable = ""
    """Once it is open: what it says to servers that demand durable storage."""

    def __init__(self, url: str, /, *, namespace: str = "rio", durable: bool | None = None) -> None:
        """:param url: ``redis://user:password@host:port/0``, or ``rediss://`` for TLS, with the
        options of redis-py. :param namespace: what all keys begin with. Clusters that share a
        server need one each. :param durable: whether to refuse a server without an append-only
        file, which forgets everything when it is restarted; ``None``
            leaves that to ``require_durable_storage`` of the cluster.

        :raises ConfigurationError: the URL is none of Redis.
        """
        super().__init__()
        if urlsplit(url).scheme not in ("redis", "rediss"):
            raise ConfigurationError(
                f"{url!r} is no URL of Redis: write redis://user:password@host:port/0"
            )
        if not namespace or set(namespace) & set("{}"):
            raise ConfigurationError(
                f"the namespace {namespace!r} must be there and have no braces"
            )
        self.namespace = namespace
        self._durable = durable
        self._target = _Target(url)

    @classmethod
    def from_url(cls, url: str, /) -> Self:
        """The database that a URL names, with ``?namespace=`` and ``?durable=`` for what is not an
        option of redis-py.

        :raises ConfigurationError: the URL is none of Redis, or an option is not known.
        """
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        namespace, durable = options.pop("namespace", "rio"), options.pop("durable", None)
        if durable not in ("yes", "no", None):
            raise ConfigurationError(f"durable must be yes or no, got {durable!r}")
        accepted = None if durable is None else durable == "yes"
        return cls(
            parts._replace(query=urlencode(options)).geturl(), namespace=namespace, durable=accepted
        )

    def __repr__(self) -> str:
        return f"RedisDatabase({self._target.where!r}, namespace={self.namespace!r})"

    @property
    def lanes(self) -> _Lanes:
        """
        :raises StorageClosed: the database is not open.
        """
        if self._lanes is None:
            raise StorageClosed(f"{self!r} is not open: call prepare() on a role that uses it")
        return self._lanes

    def statistics(self) -> RedisStatistics:
        """What was done since the database was opened.

        :raises StorageClosed: it is not open.
        """
        return RedisStatistics(
            sum(lane.rows for lane in self.lanes), sum(lane.commands for lane in self.lanes)
        )

    async def _open(self) -> None:
        lanes = _Lanes(*(_Lane(self._target) for _ in _Lanes._fields))
        try:
            await self._check(lanes.members)
        except BaseException:
            await lanes.members.close()
            raise
        self._lanes = lanes

    async def _check(self, lane: _Lane) -> None:
        self.why_not_durable = (
            "" if self._durable is False else await self._find_out_why_not_durable(lane)
        )
        if self._durable and self.why_not_durable:
            raise ConfigurationError(self.why_not_durable)
        key = f"{{{self.namespace}:members}}:cluster".encode()
        await lane.command(b"HSETNX", key, b"schema", str(SCHEMA_VERSION).encode())
        found = await lane.command(b"HGET", key, b"schema")
        if int(found) != SCHEMA_VERSION:
            raise SchemaMismatch(
                f"{self._target.where}: {self.namespace!r} has schema {int(found)}, this rio needs {SCHEMA_VERSION}"
            )

    async def _find_out_why_not_durable(self, lane: _Lane) -> str:
        if b"aof_enabled:0" not in await lane.command(b"INFO", b"persistence"):
            return ""
        return (
            f"{self._target.where} keeps nothing over a restart: objects would forget what they had saved. Set 'appendonly yes' "
            "(and consider 'appendfsync always'), or accept it with ?durable=no in the URL"
        )

    async def _close(self) -> None:
        lanes, self._lanes = self.lanes, None
        await asyncio.gather(*(lane.close() for lane in lanes))

    def __del__(self) -> None:
        if self._lanes is not None:
            warnings.warn(
                f"{self!r} was not closed: use 'async with', or call close()",
                ResourceWarning,
                stacklevel=1,
                source=self,
            )


class _RedisRole(SharingRole):
    """What the three roles share."""

    def __init__(self, where: str | RedisDatabase, /) -> None:
        self._database = (
            where if isinstance(where, RedisDatabase) else RedisDatabase.from_url(where)
        )
        super().__init__(self._database)
        self._keys = tuple(
            f"{{{self._database.namespace}:{self._tag}}}:{table}".encode() for table in self._tables
        )

    _tag = ""
    _tables: tuple[str, ...] = ()

    @property
    def why_not_durable(self) -> str:
        return self._database.why_not_durable

    @property
    def _lanes(self) -> _Lanes:
        self._check_open()
        return self._database.lanes


def _prefixed(*parts: str) -> bytes:
    """The parts as one key that no other parts have."""
    encoded = [part.encode() for part in parts]
    return b"".join(b"%d:%s" % (len(part), part) for part in encoded)


# --- membership -----------------------------------------------------------------------------------

_NO_VOTES = encode_votes(())


def _member(answer: Sequence[bytes]) -> Member | None:
    if not answer:
        return None
    generation, address, status, lease, metadata, votes = answer
    return Member(
        int(generation),
        address.decode(),
        MemberStatus(int(status)),
        int(lease),
        metadata,
        decode_votes(votes),
    )


def _snapshot(answer: Any) -> MembershipSnapshot:
    version, generation_high, answers = answer
    members = [member for member in map(_member, answers) if member is not None]
    return MembershipSnapshot(
        int(version),
        int(generation_high),
        tuple(sorted(members, key=lambda member: member.generation)),
    )


class RedisMembershipStorage(_RedisRole, MembershipStorage):
    """Members in Redis, a hash for each column: a URL, or a database shared with other roles."""

    _tag = "members"
    _tables = ("cluster", "address", "status", "lease", "metadata", "votes")

    async def register(self, address: str, metadata: bytes = b"") -> Registered:
        check_metadata(metadata)
        generation, snapshot = await self._run(REGISTER, address.encode(), metadata, _NO_VOTES)
        return Registered(int(generation), _snapshot(snapshot))

    async def renew(self, generation: int) -> bool:
        return bool(await self._lanes.lease.submit(RENEW, self._keys, (generation,)))

    async def snapshot(self) -> MembershipSnapshot:
        return _snapshot(await self._run(SNAPSHOT))

    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        check_forward(expected, status)
        counter = b"" if expected_counter is None else expected_counter
        applied, member = await self._run(
            SET_STATUS, generation, int(expected), int(status), counter
        )
        return StatusChange(bool(applied), _member(member))

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        votes: tuple[Vote, ...] = ()
        while True:
            ballot = encode_votes(add_vote(votes, vote))
            fate, answer = await self._run(
                VOTE, generation, vote.voter, encode_votes(votes), ballot
            )
            member = _member(answer)
            if fate != b"changed" or member is None:
                return StatusChange(fate == b"counted", member)
            votes = member.votes

    async def purge(self, generation: int) -> bool:
        return bool(await self._run(PURGE, generation))

    def _run(self, script: Script, *row: Any) -> Awaitable[Any]:
        return self._lanes.members.submit(script, self._keys, row)


# --- placement ------------------------------------------------------------------------------------


def _field(object_id: ObjectId) -> bytes:
    type_name, id = object_id[0].encode(), object_id[1].encode()
    return b"%d:%s%s" % (len(type_name), type_name, id)


def _object_id(field: bytes) -> ObjectId:
    length, _, rest = field.partition(b":")
    return ObjectId(rest[: int(length)].decode(), rest[int(length) :].decode())


def _placement(row: bytes) -> Placement:
    generation, _, token = row.partition(b":")
    return Placement(int(generation) if generation else None, int(token))


class RedisObjectPlacement(_RedisRole, ObjectPlacement):
    """Placements in Redis, a hash of ``generation:token`` and a sorted set of who owns what: a URL,
    or a database shared with other roles.

    The field without a name holds the highest token.
    """

    _tag = "placement"
    _tables = ("objects", "owned")

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        row = _field(object_id), generation, b"" if supersede is None else supersede
        return _placement(await self._lanes.placement.submit(CLAIM, self._keys, row))

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        row = await self._lanes.placement.submit(LOOKUP, self._keys, (_field(object_id),))
        return None if row is None else _placement(row)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        return bool(
            await self._lanes.placement.submit(RELEASE, self._keys, (_field(object_id), token))
        )

    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        return [
            _object_id(field)
            for field in await self._lanes.placement.submit(OWNED_BY, self._keys, (generation,))
        ]


# --- state ----------------------------------------------------------------------------------------


class RedisState(_RedisRole, StateStorage):
    """States in Redis, a hash for each: a URL, or a database shared with other roles.

    One without a version is a fence on nothing.
    """

    async def load_and_fence(self, object_id: ObjectId, state_name: str, token: int) -> StoredState:
        answer = await self._run(LOAD_AND_FENCE, object_id, state_name, token)
        if len(answer) == 1:
            raise Superseded(
                f"{state_name} of {object_id} was fenced by token {int(answer[0])}, newer than {token}"
            )
        _, version, data = answer
        if version is None and data is None:
            raise StateNotFound(f"no {state_name} is stored for {object_id}")
        if version is None or data is None or not version.isdigit():
            raise StateCorrupt(
                f"the stored {state_name} of {object_id} is no state of rio: version {version!r}"
            )
        return StoredState(int(version), data)

    async def save(
        self, object_id: ObjectId, state_name: str, token: int, version: int, data: bytes
    ) -> int:
        if not await self._run(
            SAVE, object_id, state_name, token, version, version + 1, bytes(data)
        ):
            raise Superseded(
                f"{state_name} of {object_id} was not saved: token {token}, version {version} is no longer what is stored"
            )
        return version + 1

    def _run(
        self, script: Script, object_id: ObjectId, state_name: str, *row: Any
    ) -> Awaitable[Any]:
        key = b"%s:state:{%s}" % (
            self._database.namespace.encode(),
            _prefixed(*object_id, state_name),
        )
        return self._lanes.state.submit(script, (key,), row)
