"""The roles on Redis."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, ClassVar

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
    check_metadata,
    decode_votes,
    encode_votes,
    make_cluster_id,
)
from rio.contracts.placement import ObjectPlacement, Placement
from rio.contracts.state import StateStorage, StoredState
from rio.errors import StateCorrupt, StateNotFound, Superseded
from rio.identity import ObjectId
from rio.storage._shared import DatabaseRole
from rio.storage.redis import _scripts
from rio.storage.redis._scripts import Script
from rio.storage.redis.database import LEASE_LANE, RedisDatabase

_NO_VOTES = encode_votes(())


class _RedisRole(DatabaseRole):
    """A role that runs scripts."""

    _name: ClassVar[str]
    """The role's name, which is that of its lane, and the hash tag of its keys."""
    _tables: ClassVar[tuple[str, ...]] = ()
    """The ends of the keys that its scripts take."""

    def __init__(self, where: str | RedisDatabase, /) -> None:
        database = where if isinstance(where, RedisDatabase) else RedisDatabase.from_url(where)
        super().__init__(database)
        self._database = database
        self._keys = tuple(
            f"{{{database.namespace}:{self._name}}}:{table}".encode() for table in self._tables
        )

    @property
    def why_not_durable(self) -> str:
        """That the server has no append-only file, or removes keys when its memory is full; an
        empty string if it does neither, or if ``durable`` of the database accepts that.
        """
        return self._database.why_not_durable

    async def adopt(self, cluster_id: str, *, instead_of: str = "") -> str:
        """As :meth:`rio.contracts.Role.adopt`."""
        key = f"{{{self._database.namespace}:database}}:schema".encode()
        answer: bytes = await self._submit(
            self._name, _scripts.ADOPT, (key,), (cluster_id, instead_of)
        )
        return answer.decode()

    def _run(self, script: Script, *row: Any) -> Awaitable[Any]:
        return self._submit(self._name, script, self._keys, row)

    def _submit(
        self, lane: str, script: Script, keys: tuple[bytes, ...], row: tuple[Any, ...]
    ) -> Awaitable[Any]:
        self._check_open()
        return self._database._require_lanes()[lane].submit(script, keys, row)


# --- membership -----------------------------------------------------------------------------------


def _member_of(answer: Sequence[bytes]) -> Member | None:
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


def _snapshot_of(answer: Any) -> MembershipSnapshot:
    version, generation_high, cluster_id, answers = answer
    members = [member for member in map(_member_of, answers) if member is not None]
    return MembershipSnapshot(
        int(version),
        int(generation_high),
        tuple(sorted(members, key=lambda member: member.generation)),
        cluster_id.decode(),
    )


class RedisMembershipStorage(_RedisRole, MembershipStorage):
    """Members in Redis, with a hash for each field of :class:`rio.Member`.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of Redis, or has an option that is not known.
    """

    _name = "membership"
    _tables = ("cluster", "address", "status", "lease", "metadata", "votes")

    async def prepare(self) -> None:
        await super().prepare()
        try:
            await self._run(_scripts.MAKE_ID, make_cluster_id())
        except BaseException:
            await self.close()
            raise

    async def register(self, address: str, metadata: bytes = b"") -> Registered:
        check_metadata(metadata)
        answer = await self._run(
            _scripts.REGISTER, address.encode(), metadata, _NO_VOTES, make_cluster_id()
        )
        generation, snapshot = answer
        return Registered(int(generation), _snapshot_of(snapshot))

    async def renew(self, generation: int) -> Renewal | None:
        self._database._check_durability_again()
        answer = await self._submit(LEASE_LANE, _scripts.RENEW, self._keys, (generation,))
        return Renewal(answer[0], answer[1].decode()) if answer else None

    async def snapshot(self) -> MembershipSnapshot:
        return _snapshot_of(await self._run(_scripts.SNAPSHOT))

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
        return StatusChange(bool(applied), _member_of(member))

    async def vote(self, generation: int, vote: Vote) -> StatusChange:
        before: tuple[Vote, ...] = ()
        while True:
            after = encode_votes(add_vote(before, vote))
            fate, answer = await self._run(
                _scripts.VOTE, generation, vote.voter, encode_votes(before), after
            )
            member = _member_of(answer)
            if fate != b"changed" or member is None:
                return StatusChange(fate == b"counted", member)
            before = member.votes

    async def change_cluster_id(self, cluster_id: str) -> MembershipSnapshot:
        return _snapshot_of(await self._run(_scripts.CHANGE_CLUSTER_ID, cluster_id))

    async def purge(self, generation: int) -> bool:
        return bool(await self._run(_scripts.PURGE, generation))


# --- placement ------------------------------------------------------------------------------------


def _encode_object_id(object_id: ObjectId) -> bytes:
    """The field of an object: its type name, prefixed by its length in bytes, and its id."""
    type_name, id = object_id[0].encode(), object_id[1].encode()
    return b"%d:%s%s" % (len(type_name), type_name, id)


def _decode_object_id(field: bytes) -> ObjectId:
    length, _, rest = field.partition(b":")
    return ObjectId(rest[: int(length)].decode(), rest[int(length) :].decode())


def _placement_of(row: bytes) -> Placement:
    generation, _, token = row.partition(b":")
    return Placement(int(generation) if generation else None, int(token))


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
        return _placement_of(
            await self._run(_scripts.CLAIM, _encode_object_id(object_id), generation, token)
        )

    async def lookup(self, object_id: ObjectId) -> Placement | None:
        row = await self._run(_scripts.LOOKUP, _encode_object_id(object_id))
        return None if row is None else _placement_of(row)

    async def release(self, object_id: ObjectId, token: int) -> bool:
        return bool(await self._run(_scripts.RELEASE, _encode_object_id(object_id), token))

    async def owned_by(self, generation: int) -> Sequence[ObjectId]:
        fields = await self._run(_scripts.OWNED_BY, generation)
        return [_decode_object_id(field) for field in fields]


# --- state ----------------------------------------------------------------------------------------


class RedisState(_RedisRole, StateStorage):
    """States in Redis, a hash for each. A hash without a version is a fence, laid where nothing is
    stored yet.

    ``where``: a URL, or a database that several roles share.

    :raises ConfigurationError: the URL is none of Redis, or has an option that is not known.
    """

    _name = "state"

    async def load_and_fence(self, object_id: ObjectId, state_name: str, token: int) -> StoredState:
        answer = await self._run_on(object_id, state_name, _scripts.LOAD_AND_FENCE, token)
        if len(answer) == 1:
            raise Superseded(
                f"{state_name} of {object_id} was fenced by token {int(answer[0])},"
                f" newer than {token}"
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
        row = token, version, version + 1, bytes(data)
        if not await self._run_on(object_id, state_name, _scripts.SAVE, *row):
            raise Superseded(
                f"{state_name} of {object_id} was not saved:"
                f" token {token}, version {version} is no longer what is stored"
            )
        return version + 1

    def _run_on(
        self, object_id: ObjectId, state_name: str, script: Script, *row: Any
    ) -> Awaitable[Any]:
        """Run a script on the key of one state."""
        parts = [part.encode() for part in (*object_id, state_name)]
        key = b"%s:%s:{%s}" % (
            self._database.namespace.encode(),
            self._name.encode(),
            b"".join(b"%d:%s" % (len(part), part) for part in parts),
        )
        return self._submit(self._name, script, (key,), row)
