"""The roles on Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar, NoReturn

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
    make_cluster_id,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import Batch, StateStorage, StoredObject, StoredState
from rio.errors import RowCorrupt, StateCorrupt, Superseded
from rio.identity import ObjectId
from rio.storage._rows import (
    member_of,
    placement_of,
    renewal_of,
    row_corrupt,
    snapshot_of,
)
from rio.storage._shared import DatabaseRole
from rio.storage.redis import _scripts
from rio.storage.redis._schema import check_row, current_schema, key_of, schema_key
from rio.storage.redis._scripts import Script
from rio.storage.redis.database import LEASE_LANE, RedisDatabase

MOST_DIGITS = 20
"""Bytes that a number of 64 bits takes in decimal digits, with its sign, at most."""
_NO_VOTES = encode_votes(())


class _RedisRole(DatabaseRole):
    """A role that runs scripts."""

    _name: ClassVar[str]
    """The role's name, which is that of its lane, and a part of its keys."""
    _tables: ClassVar[tuple[str, ...]] = ()
    """The ends of the keys that its scripts take."""

    def __init__(self, where: str | RedisDatabase, /) -> None:
        database = where if isinstance(where, RedisDatabase) else RedisDatabase.from_url(where)
        super().__init__(database)
        self._database = database
        self._keys = tuple(self._key(table) for table in self._tables)

    @property
    def why_not_durable(self) -> str:
        """That the server has no append-only file, or removes keys when its memory is full; an
        empty string if it does neither, or if ``durable`` of the database accepts that.
        """
        return self._database.why_not_durable

    async def prepare(self) -> None:
        await super().prepare()
        self._database._make_ready(self._name)

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        """As :meth:`rio.contracts.Role.adopt`."""
        key = schema_key(self._database.namespace)
        answer: bytes = await self._submit(
            self._name, _scripts.ADOPT, (key,), (cluster_id, instead_of)
        )
        if not isinstance(recorded := _text(answer), str):
            raise row_corrupt(f"the field adopted_by of {key.decode()}", repr(answer))
        return recorded

    def _key(self, name: str) -> bytes:
        """A key of this role."""
        return key_of(self._database.namespace, f"{self._name}:{name}")

    def _run(self, script: Script, *row: Any) -> Awaitable[Any]:
        return self._submit(self._name, script, self._keys, row)

    def _submit(
        self, lane: str, script: Script, keys: tuple[bytes, ...], row: tuple[Any, ...]
    ) -> Awaitable[Any]:
        if not self._is_open:
            self._check_open()
        lanes = self._database._lanes or self._database._require_lanes()
        return lanes[lane].submit(script, keys, row)


# --- membership -----------------------------------------------------------------------------------


_COLUMNS = ("address", "status", "lease", "metadata", "votes", "digest")
"""The keys of the values with which a script answers for a member, after its generation."""


class RedisMembershipStorage(_RedisRole, MembershipStorage):
    """Members in Redis, with a hash for each field of :class:`rio.Member`.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of Redis, or has an option that is not known.
    """

    _name = "membership"
    _tables = ("cluster", "address", "status", "lease", "metadata", "votes", "manifest", "digest")

    async def prepare(self) -> None:
        await super().prepare()
        try:
            await self._run(_scripts.MAKE_ID, make_cluster_id())
        except BaseException:
            await self.close()
            raise

    async def register(
        self, address: str, metadata: bytes = b"", manifest: bytes = b""
    ) -> Registered:
        check_metadata(metadata)
        check_manifest(manifest)
        self._check_open()
        self._database._make_ready(LEASE_LANE)  # whoever registers renews
        namespace, schema = self._database.namespace, current_schema()
        row = (
            address.encode(),
            metadata,
            _NO_VOTES,
            make_cluster_id(),
            manifest,
            digest_manifest(manifest),
            schema,
        )
        keys = (*self._keys, schema_key(namespace))
        stored, *registered = await self._submit(self._name, _scripts.REGISTER, keys, row)
        if not registered:
            check_row(repr(self._database), stored, schema)
        generation, snapshot = registered
        return Registered(int(generation), self._snapshot_of(snapshot))

    async def renew(self, generation: int) -> Renewal | None:
        self._database._check_durability_again()
        answer = await self._submit(LEASE_LANE, _scripts.RENEW, self._keys, (generation,))
        if not answer:
            return None
        counter, cluster_id = answer
        where = f"the field id of {self._key('cluster').decode()}"
        return renewal_of(where, (counter, _text(cluster_id)))

    async def snapshot(self) -> MembershipSnapshot:
        return self._snapshot_of(await self._run(_scripts.SNAPSHOT))

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
            _scripts.SET_STATUS, generation, int(expected), int(status), counter
        )
        return StatusChange(bool(applied), self._member_of(member))

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        before: tuple[Vote, ...] = ()
        while True:
            after = encode_votes(add_vote(before, vote))
            fate, answer = await self._run(
                _scripts.VOTE, generation, vote.voter, encode_votes(before), after
            )
            member = self._member_of(answer)
            if fate != b"changed" or member is None:
                return StatusChange(fate == b"counted", member)
            before = member.votes

    async def set_manifest(self, generation: int, manifest: bytes) -> bool:
        check_manifest(manifest)
        digest = digest_manifest(manifest)
        return bool(await self._run(_scripts.SET_MANIFEST, generation, manifest, digest))

    async def read_manifests(self, generations: Sequence[int]) -> dict[int, bytes]:
        if not generations:
            return {}
        answer = await self._run(_scripts.READ_MANIFESTS, *generations)
        found = zip(generations, answer, strict=True)
        return {generation: manifest for generation, manifest in found if manifest is not None}

    async def set_settings(self, settings: bytes, version: int) -> bool:
        return bool(await self._run(_scripts.SET_SETTINGS, settings, version))

    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        return self._snapshot_of(await self._run(_scripts.CHANGE_CLUSTER_ID, cluster_id))

    async def purge(self, generation: int) -> bool:
        return bool(await self._run(_scripts.PURGE, generation))

    def _snapshot_of(self, answer: Any) -> MembershipSnapshot:
        version, generation_high, cluster_id, settings, answers = answer
        members = [member for member in map(self._member_of, answers) if member is not None]
        members.sort(key=lambda member: member.generation)
        if cluster_id is None and not members:
            cluster_id = b""  # somebody has emptied the database
        row = _number(version), _number(generation_high), _text(cluster_id), settings
        return snapshot_of(f"the key {self._key('cluster').decode()}", row, members)

    def _member_of(self, answer: Any) -> Member | None:
        if not answer:
            return None
        generation, *values = answer
        if None in values:
            self._refuse_missing(_COLUMNS[values.index(None)], generation)
        address, status, lease, *others = values
        row = _number(generation), _text(address), _number(status), _number(lease), *others
        keys = self._key(f"{{{','.join(_COLUMNS)}}}").decode()
        return member_of(f"the field {generation.decode(errors='replace')} of {keys}", row)

    def _refuse_missing(self, column: str, generation: bytes) -> NoReturn:
        name, field = self._key(column).decode(), generation.decode(errors="replace")
        raise RowCorrupt(
            f"{name} has no field {field}: the key was evicted or deleted. Set 'maxmemory-policy"
            f" noeviction'; then restore a backup, or stop the server of member {field} and"
            f" 'HDEL {self._key('status').decode()} {field}'"
        )


# --- placement ------------------------------------------------------------------------------------


def _encode_object_id(object_id: ObjectId) -> bytes:
    """The field of an object: its type name, prefixed by its length in bytes, and its id."""
    type_name, id = object_id[0].encode(), object_id[1].encode()
    return b"%d:%s%s" % (len(type_name), type_name, id)


def _decode_object_id(key: bytes, field: bytes) -> ObjectId:
    length, _, rest = field.partition(b":")
    try:
        return ObjectId(rest[: int(length)].decode(), rest[int(length) :].decode())
    except ValueError as error:
        raise row_corrupt(f"{field!r} in {key.decode()}", error) from error


def _placement_of(key: bytes, object_id: ObjectId, row: bytes) -> Placement:
    generation, _, token = row.partition(b":")
    where = f"the field of {object_id} in {key.decode()}"
    return placement_of(where, (_number(generation), _number(token)))


def _number(value: bytes) -> Any:
    """A number; or what it is instead, for the check of its row to refuse."""
    is_number = len(value) <= MOST_DIGITS and value.removeprefix(b"-").isdigit()
    return int(value) if is_number else value


def _text(value: bytes | None) -> Any:
    """A text; or what it is instead, for the check of its row to refuse."""
    try:
        return value and value.decode()
    except UnicodeDecodeError:
        return value


class RedisObjectPlacement(_RedisRole, ObjectPlacement):
    """Placements in Redis: a hash of ``generation:token``, and a sorted set of the objects with
    their owners as scores. The field without a name holds the highest token.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of Redis, or has an option that is not known.
    """

    _name = "placement"
    _tables = ("objects", "owned")

    async def claim(
        self, object_id: ObjectId, generation: int, *, supersede: int | None = None
    ) -> Placement:
        token = b"" if supersede is None else supersede
        row = await self._run(_scripts.CLAIM, _encode_object_id(object_id), generation, token)
        return _placement_of(self._keys[0], object_id, row)

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        row = await self._run(_scripts.LOOKUP, _encode_object_id(object_id))
        return None if row is None else _placement_of(self._keys[0], object_id, row)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        return bool(await self._run(_scripts.RELEASE, _encode_object_id(object_id), token))

    async def release_all(self, generation: int) -> int:
        total = 0
        while released := int(await self._run(_scripts.RELEASE_SOME, generation)):
            total += released
        return total

    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        fields = await self._run(_scripts.OWNED_BY, generation)
        return [_decode_object_id(self._keys[1], field) for field in fields]


# --- state ----------------------------------------------------------------------------------------


class RedisState(_RedisRole, StateStorage):
    """States in Redis: a hash for each object, and a sorted set of the objects that have one.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of Redis, or has an option that is not known.
    """

    _name = "state"
    _as_owner = False
    """Whether the placement is in the same database, so that a first commit can look there."""

    def __init__(self, where: str | RedisDatabase, /) -> None:
        super().__init__(where)
        self._ids = self._key("ids")
        self._commit_keys = key_of(self._database.namespace, "placement:objects"), self._ids
        self._object_key = self._key("object:")

    def use_placement(self, placement: ObjectPlacement) -> None:
        self._as_owner = (
            isinstance(placement, RedisObjectPlacement) and placement._database is self._database
        )

    async def load_object(self, object_id: ObjectId, token: int) -> StoredObject:
        key = self._object_key + _encode_object_id(object_id)
        answer = await self._submit(self._name, _scripts.LOAD, (key,), (token,))
        if not answer:
            return StoredObject(0, {})
        if len(answer) == 1:
            [fence] = answer
            if not fence.isdigit():
                raise StateCorrupt(f"the stored {object_id} is none of rio: token {fence!r}")
            raise Superseded(f"{object_id} was fenced by token {int(fence)}, newer than {token}")
        return _object_of(object_id, answer)

    async def read_object(self, object_id: ObjectId) -> StoredObject:
        key = self._object_key + _encode_object_id(object_id)
        answer = await self._submit(self._name, _scripts.READ, (key,), ())
        return _object_of(object_id, answer) if answer else StoredObject(0, {})

    async def commit(self, object_id: ObjectId, token: int, version: int, batch: Batch) -> int:
        field = _encode_object_id(object_id)
        changes = _fields_of(batch)
        row = (field, int(self._as_owner), token, version, version + 1, len(changes), *changes)
        keys = *self._commit_keys, self._object_key + field
        if not await self._submit(self._name, _scripts.COMMIT, keys, row):
            raise Superseded(
                f"{object_id} was not saved:"
                f" token {token}, version {version} is no longer what is stored"
            )
        return version + 1

    async def rewrite_object(self, object_id: ObjectId, version: int, batch: Batch) -> bool:
        key = self._object_key + _encode_object_id(object_id)
        row = (version, *_fields_of(batch))
        return bool(await self._submit(self._name, _scripts.REWRITE, (key,), row))

    async def list_objects(
        self, type_name: str, *, prefix: str = "", after: str = "", limit: int = 1000
    ) -> Sequence[str]:
        first = b"[" + _encode_object_id(ObjectId(type_name, prefix))
        if after >= prefix:
            first = b"(" + _encode_object_id(ObjectId(type_name, after))
        fields = await self._submit(self._name, _scripts.LIST, (self._ids,), (first, limit))
        objects = [_decode_object_id(self._ids, field) for field in fields]
        return [
            object_id.id
            for object_id in objects
            if object_id.type_name == type_name and object_id.id.startswith(prefix)
        ]


def _fields_of(batch: Batch) -> list[bytes]:
    """The fields and values of an object's hash that a batch sets."""
    fields: list[bytes] = []
    for name, (data, schema) in batch.states.items():
        fields += b":" + name.encode(), b"%d:%s" % (schema, data)
    return fields


def _object_of(object_id: ObjectId, answer: Sequence[bytes]) -> StoredObject:
    fields = dict(zip(answer[::2], answer[1::2], strict=True))
    version = fields.get(b"version", b"")
    if not version.isdigit():
        raise StateCorrupt(f"the stored {object_id} is none of rio: version {version!r}")
    states = {
        _text(name[1:]): _state_of(object_id, value)
        for name, value in fields.items()
        if name.startswith(b":")
    }
    for name in states:
        if not isinstance(name, str):
            raise StateCorrupt(f"the stored {object_id} is none of rio: it has a state {name!r}")
    return StoredObject(int(version), states)


def _state_of(object_id: ObjectId, value: bytes) -> StoredState:
    schema, colon, data = value.partition(b":")
    if not (schema.isdigit() and colon):
        raise StateCorrupt(f"a stored state of {object_id} is none of rio: {value[:20]!r}")
    return StoredState(data, int(schema))
