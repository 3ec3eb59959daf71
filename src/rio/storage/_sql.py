"""The roles on any SQL database, and what a database must offer for them.

Every operation is a generator that yields statements and is sent their rows. So one text serves a
driver that runs the whole operation in a thread (SQLite) and a driver that awaits each statement
(PostgreSQL). A database may have to run an operation again, so all effects of an operation are in
its SQL, and an operation returns what happened; only the roles raise errors. Statements that change
members touch ``rio_cluster`` last: because of that one order, transactions that overlap never wait
for each other in a circle.

Placeholders are ``?``; a database with another style translates them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar, NamedTuple, Self, TypeVar, TypeVarTuple

from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    Registered,
    Renewal,
    StatusChange,
    Vote,
    add_vote,
    check_forward,
    check_manifest,
    check_metadata,
    digest_manifest,
    encode_votes,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import RowCorrupt, StateCorrupt, Superseded
from rio.identity import ObjectId
from rio.storage._migrations import check_schema
from rio.storage._rows import (
    check_row,
    member_of,
    placement_of,
    renewal_of,
    row_corrupt,
    snapshot_of,
    votes_of,
)
from rio.storage._shared import DatabaseRole, SharedDatabase

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Row = tuple[Any, ...]
Statement = tuple[str, tuple[Any, ...]]
"""The text of a statement, and the values of its placeholders."""
Operation = Generator[Statement, list[Row], T]
"""The statements of one transaction: it yields them, is sent their rows, and returns a result."""


class SqlDatabase(SharedDatabase):
    """A database that runs operations in transactions.

    Databases are public, so what is only for their roles begins with an underscore.
    """

    _next_after: ClassVar[str]
    """An SQL expression for ``max({high} + 1, now)``, where ``now`` is the database's clock in
    microseconds. So what is given out after a restore is larger than what was given out before.
    """
    _next_token: ClassVar[str]
    """An SQL expression for a token that is larger than any before it, even if rows were deleted in
    between.
    """

    @property
    @abstractmethod
    def _schema(self) -> int:
        """The schema of the tables that the roles work on."""

    @abstractmethod
    def _write(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        """Run ``operation(*args)`` in one transaction, which it may share with other operations,
        and return when its effects are durable.

        :raises StorageUnavailable: it is not known whether it was done.
        """

    def _write_each(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        """Like :meth:`_write`, but each statement of the operation may be a transaction of its
        own.
        """
        return self._write(operation, *args)

    @abstractmethod
    def _write_row(self, statement: str, parameters: tuple[Any, ...]) -> Awaitable[list[Row]]:
        """The rows of one statement for one row, which may share a transaction with others; the
        short way of a :meth:`_write_each`.
        """

    def _write_apart(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        """Like :meth:`_write_each`, but do not wait behind other operations if the database can
        avoid it: a lease must not run out meanwhile.
        """
        return self._write(operation, *args)

    def _write_once(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        """Like :meth:`_write`, for an operation of one statement, which is never repeated."""
        return self._write(operation, *args)

    def _save_several(
        self,
        object_id: ObjectId,
        token: int,
        version: int,
        states: Mapping[str, StoredState],
        as_owner: bool,
    ) -> Awaitable[bool]:
        """Commit states of an object that has, or gets, more than one, in one transaction.

        ``as_owner``: only if the placement names the token, where it is the first commit.
        """
        return self._write(_save_several, object_id, token, version, states, as_owner)

    @abstractmethod
    def _read(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        """Run ``operation(*args)``, which changes nothing, and which sees every write that has
        returned.

        :raises StorageUnavailable: the database did not answer.
        """


def run_statement(statement: str, parameters: tuple[Any, ...]) -> Operation[list[Row]]:
    """The operation that is one statement."""
    return (yield statement, parameters)


_ADOPT = "UPDATE rio_cluster SET adopted_by = ? WHERE adopted_by IN ('', ?)"
_ADOPTED_BY = "SELECT adopted_by FROM rio_cluster"


def _adopt(cluster_id: str, instead_of: str) -> Operation[str]:
    yield _ADOPT, (cluster_id, instead_of)
    (recorded,) = _only((yield _ADOPTED_BY, ()))
    return str(recorded)


class SqlRole(DatabaseRole):
    """A role that runs operations on an SQL database."""

    def __init__(self, database: SqlDatabase) -> None:
        super().__init__(database)
        self._database = database

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        """As :meth:`rio.contracts.Role.adopt`."""
        return await self._write(_adopt, cluster_id, instead_of)

    def _write(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        if not self._is_open:
            self._check_open()
        return self._database._write(operation, *args)

    def _write_each(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        if not self._is_open:
            self._check_open()
        return self._database._write_each(operation, *args)

    def _write_row(self, statement: str, parameters: tuple[Any, ...]) -> Awaitable[list[Row]]:
        if not self._is_open:
            self._check_open()
        return self._database._write_row(statement, parameters)

    def _write_apart(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        if not self._is_open:
            self._check_open()
        return self._database._write_apart(operation, *args)

    def _write_once(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        if not self._is_open:
            self._check_open()
        return self._database._write_once(operation, *args)

    def _read(self, operation: Callable[[*Ts], Operation[T]], *args: *Ts) -> Awaitable[T]:
        if not self._is_open:
            self._check_open()
        return self._database._read(operation, *args)


# --- membership -----------------------------------------------------------------------------------

_MEMBER = (
    "m.generation, m.address, m.status, m.lease_counter, m.metadata, m.votes, m.manifest_digest"
)
LIVE_MEMBERS = (
    "SELECT address FROM rio_member"
    f" WHERE status NOT IN ({MemberStatus.LEFT:d}, {MemberStatus.DEAD:d}) ORDER BY generation"
)
_READ_SCHEMA = "SELECT schema_version FROM rio_cluster"
_FIND = f"SELECT {_MEMBER} FROM rio_member AS m WHERE m.generation = ?"
SNAPSHOT = (
    f"SELECT c.snapshot_version, c.generation_high, c.cluster_id, c.settings, {_MEMBER}"
    " FROM rio_cluster AS c LEFT JOIN rio_member AS m ON 1 = 1 ORDER BY m.generation"
)
_TERMINAL = f"({MemberStatus.LEFT:d}, {MemberStatus.DEAD:d})"
_END = f"UPDATE rio_member SET status = {MemberStatus.DEAD:d} WHERE status NOT IN {_TERMINAL}"
_END_OLDER = f"{_END} AND address = ?"
_REGISTER = (
    "INSERT INTO rio_member"
    " (generation, address, status, lease_counter, metadata, votes, manifest, manifest_digest)"
    " VALUES (?, ?, ?, 0, ?, ?, ?, ?)"
)
RENEW = (
    "UPDATE rio_member SET lease_counter = lease_counter + 1"
    f" WHERE generation = ? AND status <= {MemberStatus.DRAINING:d}"
    " RETURNING lease_counter, (SELECT cluster_id FROM rio_cluster)"
)
_SET_STATUS = (
    "UPDATE rio_member SET status = ? WHERE generation = ? AND status = ?"
    " AND lease_counter = COALESCE(?, lease_counter) RETURNING generation"
)
_SET_MANIFEST = (
    "UPDATE rio_member SET manifest = ?, manifest_digest = ?"
    f" WHERE generation = ? AND status NOT IN {_TERMINAL} RETURNING generation"
)
_READ_MANIFEST = "SELECT manifest FROM rio_member WHERE generation = ?"
_SET_CLUSTER_ID = "UPDATE rio_cluster SET cluster_id = ?"
_VOTES_IF_ALLOWED = (
    "SELECT m.votes FROM rio_member AS m"
    f" WHERE m.generation = ? AND m.status NOT IN {_TERMINAL} AND EXISTS ("
    "SELECT 1 FROM rio_member AS v"
    f" WHERE v.generation = ? AND v.status = {MemberStatus.ACTIVE:d})"
)
_SET_VOTES = (
    "UPDATE rio_member SET votes = ? WHERE generation = ? AND votes = ? RETURNING generation"
)
_PURGE = (
    f"DELETE FROM rio_member WHERE generation = ? AND status IN {_TERMINAL} RETURNING generation"
)

_NO_VOTES = encode_votes(())


class _SchemaRow(NamedTuple):
    schema_version: int


class _MemberStatements(NamedTuple):
    """The statements that are not the same for every database."""

    next_generation: str
    raise_version: str
    set_settings: str

    @classmethod
    def of(cls, database: SqlDatabase) -> Self:
        version = database._next_after.format(high="snapshot_version")
        generation = database._next_after.format(high="generation_high")
        raise_version = f"UPDATE rio_cluster SET snapshot_version = {version}"
        return cls(
            f"{raise_version}, generation_high = {generation} RETURNING generation_high",
            raise_version,
            f"{raise_version}, settings = ? WHERE snapshot_version = ? RETURNING snapshot_version",
        )


_CLUSTER_ROW = "the row of rio_cluster"


def _member_of(row: Row) -> Member:
    return member_of(_name_member(row[0]), row)


def _name_member(generation: int) -> str:
    return f"the row of member {generation} in rio_member"


def _only(rows: list[Row]) -> Row:
    """The one row of ``rio_cluster``."""
    if len(rows) != 1:
        raise row_corrupt(_CLUSTER_ROW, f"there are {len(rows)} such rows")
    return rows[0]


def _find(generation: int) -> Operation[Member | None]:
    rows = yield _FIND, (generation,)
    return _member_of(rows[0]) if rows else None


def _read_snapshot() -> Operation[MembershipSnapshot]:
    rows = yield SNAPSHOT, ()
    cluster = _only(rows[:1])[:4]
    members = [_member_of(row[4:]) for row in rows if row[4] is not None]
    return snapshot_of(_CLUSTER_ROW, cluster, members)


def _register(
    statements: _MemberStatements, schema: int, address: str, metadata: bytes, manifest: bytes
) -> Operation[Registered | int]:
    """The schema of the tables if it is not ``schema``: they were migrated meanwhile."""
    (found,) = _only((yield _READ_SCHEMA, ()))
    if found != schema:
        return check_row(_CLUSTER_ROW, _SchemaRow, (found,)).schema_version
    yield _END_OLDER, (address,)
    [(generation,)] = yield statements.next_generation, ()
    status, digest = int(MemberStatus.JOINING), digest_manifest(manifest)
    yield _REGISTER, (generation, address, status, metadata, _NO_VOTES, manifest, digest)
    return Registered(generation, (yield from _read_snapshot()))


def _renew(generation: int) -> Operation[Renewal | None]:
    rows = yield RENEW, (generation,)
    return renewal_of(f"{_CLUSTER_ROW}, or {_name_member(generation)},", rows[0]) if rows else None


def _set_status(
    statements: _MemberStatements,
    generation: int,
    expected: int,
    status: int,
    expected_counter: int | None,
) -> Operation[StatusChange]:
    applied = bool((yield _SET_STATUS, (status, generation, expected, expected_counter)))
    if applied:
        yield statements.raise_version, ()
    return StatusChange(applied, (yield from _find(generation)))


def _vote(generation: int, vote: Vote) -> Operation[StatusChange]:
    applied = False
    while not applied and (rows := (yield _VOTES_IF_ALLOWED, (generation, vote.voter))):
        [(before,)] = rows
        after = encode_votes(add_vote(votes_of(_name_member(generation), before), vote))
        applied = bool((yield _SET_VOTES, (after, generation, before)))
    return StatusChange(applied, (yield from _find(generation)))


def _set_manifest(
    statements: _MemberStatements, generation: int, manifest: bytes
) -> Operation[bool]:
    row = (manifest, digest_manifest(manifest), generation)
    applied = bool((yield _SET_MANIFEST, row))
    if applied:
        yield statements.raise_version, ()
    return applied


def _read_manifests(generations: Sequence[int]) -> Operation[dict[int, bytes]]:
    found: dict[int, bytes] = {}
    for generation in generations:
        for (manifest,) in (yield _READ_MANIFEST, (generation,)):
            if not isinstance(manifest, bytes):
                raise row_corrupt(_name_member(generation), f"manifest {manifest!r}")
            found[generation] = manifest
    return found


def _set_settings(statements: _MemberStatements, settings: bytes, version: int) -> Operation[bool]:
    return bool((yield statements.set_settings, (settings, version)))


def _change_cluster_id(
    statements: _MemberStatements, cluster_id: str
) -> Operation[MembershipSnapshot]:
    yield _END, ()
    yield _SET_CLUSTER_ID, (cluster_id,)
    yield statements.raise_version, ()
    return (yield from _read_snapshot())


def _purge(statements: _MemberStatements, generation: int) -> Operation[bool]:
    purged = bool((yield _PURGE, (generation,)))
    if purged:
        yield statements.raise_version, ()
    return purged


class SqlMembershipStorage(SqlRole, MembershipStorage):
    """Members as rows of ``rio_member``.

    The snapshot's version, the highest generation and the cluster's id are in the one row of
    ``rio_cluster``.
    """

    def __init__(self, database: SqlDatabase) -> None:
        super().__init__(database)
        self._statements = _MemberStatements.of(database)

    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        check_metadata(metadata)
        check_manifest(manifest)
        schema = self._database._schema
        answer = await self._write(_register, self._statements, schema, address, metadata, manifest)
        if isinstance(answer, int):
            check_schema(repr(self._database), answer, schema)
        assert isinstance(answer, Registered)
        return answer

    async def renew(self, generation: int) -> Renewal | None:
        return await self._write_apart(_renew, generation)

    async def snapshot(self) -> MembershipSnapshot:
        return await self._read(_read_snapshot)

    async def set_status(
        self,
        generation: int,
        expected: MemberStatus,
        status: MemberStatus,
        *,
        expected_counter: int | None = None,
    ) -> StatusChange:
        check_forward(expected, status)
        return await self._write(
            _set_status,
            self._statements,
            generation,
            int(expected),
            int(status),
            expected_counter,
        )

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        return await self._write(_vote, generation, vote)

    async def set_manifest(self, generation: int, manifest: bytes) -> bool:
        check_manifest(manifest)
        return await self._write(_set_manifest, self._statements, generation, manifest)

    async def read_manifests(self, generations: Sequence[int]) -> dict[int, bytes]:
        return await self._read(_read_manifests, generations) if generations else {}

    async def set_settings(self, settings: bytes, version: int) -> bool:
        return await self._write(_set_settings, self._statements, settings, version)

    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        return await self._write(_change_cluster_id, self._statements, cluster_id)

    async def purge(self, generation: int) -> bool:
        return await self._write(_purge, self._statements, generation)


# --- placement ------------------------------------------------------------------------------------

CLAIM = (
    "INSERT INTO rio_placement AS p (type_name, id, generation, token)"
    " VALUES (?, ?, ?, {next_token})"
    " ON CONFLICT (type_name, id)"
    " DO UPDATE SET generation = excluded.generation, token = excluded.token"
    " WHERE p.generation = excluded.generation OR p.token = ?"
    " RETURNING generation, token"
)
LOOKUP = "SELECT generation, token FROM rio_placement WHERE type_name = ? AND id = ?"
RELEASE = "DELETE FROM rio_placement WHERE type_name = ? AND id = ? AND token = ? RETURNING token"
_RELEASE_SOME = (
    "DELETE FROM rio_placement WHERE generation = ? AND (type_name, id) IN"
    " (SELECT type_name, id FROM rio_placement WHERE generation = ? LIMIT 1000) RETURNING token"
)
_OWNED_BY = "SELECT type_name, id FROM rio_placement WHERE generation = ?"


def _claim(
    statement: str, object_id: ObjectId, generation: int, supersede: int | None
) -> Operation[Placement]:
    while True:
        rows = (yield statement, (*object_id, generation, supersede)) or (yield LOOKUP, object_id)
        if rows:
            return _placement_of(object_id, rows[0])
        # The claim was refused because of an owner that has released the object since.


def _lookup(object_id: ObjectId) -> Operation[Placement | None]:
    rows = yield LOOKUP, object_id
    return _placement_of(object_id, rows[0]) if rows else None


def _placement_of(object_id: ObjectId, row: Row) -> Placement:
    return placement_of(f"the row of {object_id} in rio_placement", row)


def _release_some(generation: int) -> Operation[int]:
    return len((yield _RELEASE_SOME, (generation, generation)))


def _owned_by(generation: int) -> Operation[list[ObjectId]]:
    rows = yield _OWNED_BY, (generation,)
    return [ObjectId(*(_decode_name("rio_placement", name) for name in row)) for row in rows]


def _decode_name(table: str, name: Any) -> str:
    """A database whose text cannot hold NUL keeps names as bytes."""
    try:
        text = name.decode() if isinstance(name, bytes) else name
    except UnicodeDecodeError:
        text = None
    if isinstance(text, str):
        return text
    raise row_corrupt(f"a row of {table}", f"it is named {name!r}")


class SqlObjectPlacement(SqlRole, ObjectPlacement):
    """Placements as rows of ``rio_placement``.

    A claim that succeeds is one statement, a claim that is refused is two.
    """

    def __init__(self, database: SqlDatabase) -> None:
        super().__init__(database)
        self._claim_statement = CLAIM.format(next_token=database._next_token)

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        return await self._write_each(
            _claim, self._claim_statement, object_id, generation, supersede
        )

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        return await self._read(_lookup, object_id)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        return bool(await self._write_row(RELEASE, (*object_id, token)))

    async def release_all(self, generation: int) -> int:
        total = 0
        while released := await self._write_each(_release_some, generation):
            total += released
        return total

    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        return await self._read(_owned_by, generation)


# --- state ----------------------------------------------------------------------------------------

FENCE = (
    "UPDATE rio_object SET token = ? WHERE type_name = ? AND id = ? AND token <= ?"
    " RETURNING version, state_name, schema, data, has_more"
)
IS_NEW = (
    "SELECT 0, NULL, 0, NULL, FALSE"
    " WHERE NOT EXISTS (SELECT 1 FROM rio_object WHERE type_name = ? AND id = ?)"
)
MORE_STATES = "SELECT state_name, schema, data FROM rio_state WHERE type_name = ? AND id = ?"
SAVE_ONE = (
    "UPDATE rio_object SET version = version + 1, schema = ?, data = ?"
    " WHERE type_name = ? AND id = ? AND state_name = ? AND token = ? AND version = ?"
    " RETURNING version"
)
_FIRST = (
    "INSERT INTO rio_object (state_name, schema, data, type_name, id, token, version, has_more)"
    " SELECT ?, ?, ?, {key}, 1, {has_more} {owner} ON CONFLICT DO NOTHING RETURNING state_name"
)
_ANYBODY = {"key": "?, ?, ?", "owner": "WHERE TRUE"}
_OWNER = {
    "key": "type_name, id, token",
    "owner": "FROM rio_placement WHERE type_name = ? AND id = ? AND token = ?",
}
SAVE_FIRST = _FIRST.format(has_more="FALSE", **_ANYBODY)
SAVE_FIRST_AS_OWNER = _FIRST.format(has_more="FALSE", **_OWNER)
_SAVE_FIRST_OF_MORE = _FIRST.format(has_more="TRUE", **_ANYBODY)
_SAVE_FIRST_OF_MORE_AS_OWNER = _FIRST.format(has_more="TRUE", **_OWNER)
_ADVANCE = (
    "UPDATE rio_object SET version = version + 1, has_more = TRUE"
    " WHERE type_name = ? AND id = ? AND token = ? AND version = ? RETURNING state_name"
)
SET_ANCHOR = "UPDATE rio_object SET schema = ?, data = ? WHERE type_name = ? AND id = ?"
SET_MORE = (
    "INSERT INTO rio_state (type_name, id, state_name, schema, data) VALUES (?, ?, ?, ?, ?)"
    " ON CONFLICT (type_name, id, state_name)"
    " DO UPDATE SET schema = excluded.schema, data = excluded.data"
)
LOCK_VERSION = (
    "UPDATE rio_object SET version = version WHERE type_name = ? AND id = ? AND version = ?"
    " RETURNING state_name"
)
LIST = "SELECT id FROM rio_object WHERE type_name = ? AND id > ? AND id >= ? ORDER BY id LIMIT ?"

READ = (
    "SELECT version, state_name, schema, data FROM rio_object WHERE type_name = ? AND id = ?"
    " UNION ALL"
    " SELECT 0, state_name, schema, data FROM rio_state WHERE type_name = ? AND id = ?"
)


def _read_states(object_id: ObjectId) -> Operation[list[Row]]:
    return (yield READ, (*object_id, *object_id))


def _load(object_id: ObjectId, token: int) -> Operation[list[Row]]:
    """The anchor row and then the rows of the other states; nothing if the token is too old."""
    rows = (yield FENCE, (token, *object_id, token)) or (yield IS_NEW, object_id)
    if rows and rows[0][-1]:
        rows += yield MORE_STATES, object_id
    return rows


def _save_several(
    object_id: ObjectId,
    token: int,
    version: int,
    states: Mapping[str, StoredState],
    as_owner: bool,
) -> Operation[bool]:
    if version:
        rows = yield _ADVANCE, (*object_id, token, version)
    else:
        name, (data, schema) = next(iter(states.items()))
        first = _SAVE_FIRST_OF_MORE_AS_OWNER if as_owner else _SAVE_FIRST_OF_MORE
        rows = yield first, (name, schema, data, *object_id, token)
    if not rows:
        return False
    for name, (data, schema) in states.items():
        if name != rows[0][0]:
            yield SET_MORE, (*object_id, name, schema, data)
        elif version:
            yield SET_ANCHOR, (schema, data, *object_id)
    return True


def _rewrite(
    object_id: ObjectId, version: int, states: Mapping[str, StoredState]
) -> Operation[bool]:
    rows = yield LOCK_VERSION, (*object_id, version)
    if not rows:
        return False
    for name, (data, schema) in states.items():
        if name == _decode_name("rio_object", rows[0][0]):
            yield SET_ANCHOR, (schema, data, *object_id)
        else:
            yield SET_MORE, (*object_id, name, schema, data)
    return True


def _list(type_name: str, prefix: str, after: str, limit: int) -> Operation[list[str]]:
    rows = yield LIST, (type_name, after, prefix, limit)
    return list(
        takewhile(
            lambda id: id.startswith(prefix), (_decode_name("rio_object", id) for (id,) in rows)
        )
    )


class SqlState(SqlRole, StateStorage):
    """States in the rows of their objects.

    The row of an object in ``rio_object`` is its anchor: it has the fence, the version, and the
    state that was saved first. So an object with one state is one row. Its other states are rows of
    ``rio_state``, and the anchor says that there are some.
    """

    _as_owner = False
    """Whether the placement is in the same database, so that a first commit can look there."""

    def use_placement(self, placement: ObjectPlacement) -> None:
        self._as_owner = (
            isinstance(placement, SqlObjectPlacement) and placement._database is self._database
        )

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        rows = await self._write_each(_load, object_id, token)
        if not rows:
            raise Superseded(f"{object_id} was fenced by a token newer than {token}")
        version, name, *_ = rows[0]
        if name is None and version == 0:
            return StoredObject(0, {})
        if not isinstance(version, int) or name is None:
            raise StateCorrupt(f"the stored {object_id} is no row of rio: version {version!r}")
        return StoredObject(version, _states_of(object_id, [rows[0][1:4], *rows[1:]]))

    async def read_object(self, object_id: ObjectId) -> StoredObject:
        rows = await self._read(_read_states, object_id)
        versions = [version for version, *_ in rows]
        if not all(isinstance(version, int) for version in versions):
            raise StateCorrupt(f"the stored {object_id} is no row of rio: versions {versions!r}")
        return StoredObject(
            max(versions, default=0), _states_of(object_id, [row[1:] for row in rows])
        )

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        states = batch.states
        saved: Sequence[Row] | bool = False
        if len(states) == 1:
            [(name, (data, schema))] = states.items()
            row: tuple[Any, ...]
            if version:
                row = (schema, data, *object_id, name, token, version)
                saved = await self._write_row(SAVE_ONE, row)
            else:
                first = SAVE_FIRST_AS_OWNER if self._as_owner else SAVE_FIRST
                row = (name, schema, data, *object_id, token)
                saved = await self._write_row(first, row)
        if not saved and (version or len(states) > 1):
            self._check_open()
            saved = await self._database._save_several(
                object_id, token, version, states, self._as_owner
            )
        if not saved:
            raise Superseded(
                f"{object_id} was not saved:"
                f" token {token}, version {version} is no longer what is stored"
            )
        return version + 1

    async def rewrite_object(self, object_id: ObjectId, version: int, batch: Batch) -> bool:
        return await self._write(_rewrite, object_id, version, batch.states)

    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        return await self._read(_list, type_name, prefix, after, limit)


def _states_of(object_id: ObjectId, rows: Sequence[Row]) -> dict[str, StoredState]:
    try:
        return {_decode_name("its states", row[0]): _state_of(object_id, *row) for row in rows}
    except RowCorrupt as error:
        raise StateCorrupt(f"the stored {object_id}: {error.message}") from error


def _state_of(object_id: ObjectId, name: Any, schema: Any, data: Any) -> StoredState:
    if not (isinstance(schema, int) and isinstance(data, bytes)):
        raise StateCorrupt(
            f"the stored {name!r} of {object_id} is no row of rio:"
            f" schema {schema!r}, data {type(data).__name__}"
        )
    return StoredState(data, schema)
