"""The rows of a database as the contracts have them.

A database may hold what ``rio`` has not written: a key was evicted, or a row was changed by hand.
Every such row ends as :class:`rio.errors.RowCorrupt`, which names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar, get_type_hints

import msgspec

from rio.contracts.membership import (
    Member,
    MembershipSnapshot,
    MemberStatus,
    Renewal,
    Vote,
    decode_votes,
)
from rio.contracts.placement import Placement
from rio.errors import RowCorrupt

T = TypeVar("T")


class _MemberRow(NamedTuple):
    generation: int
    address: str
    status: int
    lease_counter: int
    metadata: bytes
    votes: bytes
    manifest_digest: bytes


class _ClusterRow(NamedTuple):
    version: int
    generation_high: int
    cluster_id: str
    settings: bytes


def member_of(where: str, row: Sequence[Any]) -> Member:
    """The member of a row. ``where``: the name of the row."""
    generation, address, status, lease_counter, metadata, votes, digest = check_row(
        where, _MemberRow, row
    )
    if status > MemberStatus.DEAD:  # the statuses of newer versions stay below
        raise row_corrupt(where, f"no version of rio has a status {status}")
    known, judged = MemberStatus(status), votes_of(where, votes)
    return Member(generation, address, known, lease_counter, metadata, judged, digest)


def votes_of(where: str, votes: Any) -> tuple[Vote, ...]:
    """The votes of a row."""
    try:
        return decode_votes(votes)
    except (TypeError, ValueError) as error:
        raise row_corrupt(where, f"its votes are {votes!r}") from error


def snapshot_of(where: str, row: Sequence[Any], members: Sequence[Member]) -> MembershipSnapshot:
    """The snapshot of the row of the cluster, and its members."""
    version, generation_high, cluster_id, settings = check_row(where, _ClusterRow, row)
    return MembershipSnapshot(version, generation_high, tuple(members), cluster_id, settings)


def renewal_of(where: str, row: Sequence[Any]) -> Renewal:
    """What a renewal answers with."""
    return check_row(where, Renewal, row)


def placement_of(where: str, row: Sequence[Any]) -> Placement:
    """The placement of a row."""
    generation, token = row
    if isinstance(generation, int) and isinstance(token, int):
        return Placement(generation, token)
    raise row_corrupt(where, f"generation {generation!r}, token {token!r}")


def check_row(where: str, row_type: type[T], row: Sequence[Any]) -> T:
    """The row as a named tuple.

    :raises RowCorrupt: a value is missing, or of another type.
    """
    try:
        return msgspec.convert(tuple(row), row_type, builtin_types=(bytes,))
    except ValueError as error:
        fields = zip(get_type_hints(row_type).items(), row, strict=True)
        wrong = [
            f"{name} is {value!r}" for (name, right), value in fields if type(value) is not right
        ]
        raise row_corrupt(where, ", ".join(wrong)) from error


def row_corrupt(where: str, problem: object) -> RowCorrupt:
    """The error for a row that ``rio`` cannot have written."""
    return RowCorrupt(
        f"{where} is damaged ({problem}): restore a backup; or stop all servers, and set it right"
        " or delete it"
    )
