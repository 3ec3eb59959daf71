"""The membership as JSON: servers show it to browsers, and
:class:`rio.storage.http.HttpMembershipStorage` reads it.

::

    {"cluster_id": "8f14e45fceea167a5a36dedd4bea2543", "version": 5, "generation_high": 2,
     "members": [{
        "generation": 2, "address": "10.0.0.2:5000", "host": "10.0.0.2", "port": 5000,
        "status": "ACTIVE", "lease_counter": 17, "metadata": "",
        "votes": [{"voter": 1, "at": 3.5}], "manifest_digest": "kV1xgP7zlWE="
    }], "settings": ""}

``metadata``, ``settings`` and ``manifest_digest`` are in Base64. A reader ignores fields that it
does not know, and takes a status that it does not know for neither active nor ended.
"""

from __future__ import annotations

import msgspec

from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus, Vote
from rio.identity import Address


class _ListedMember(msgspec.Struct):
    generation: int
    address: str
    status: str
    lease_counter: int
    metadata: bytes
    votes: tuple[Vote, ...]
    host: str = ""
    """``address`` once more, in two parts, for people."""
    port: int = 0
    manifest_digest: bytes = b""


class _Listing(msgspec.Struct):
    version: int
    generation_high: int
    members: list[_ListedMember]
    cluster_id: str = ""
    settings: bytes = b""


_UNKNOWN = MemberStatus(-1)
"""The listing has no number for a status, so all that are not known are read as this one."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Listing).decode


def encode_members(snapshot: MembershipSnapshot) -> bytes:
    """A whole snapshot as JSON."""
    members = [_list_member(member) for member in snapshot.members]
    return _encode(
        _Listing(
            snapshot.version,
            snapshot.generation_high,
            members,
            snapshot.cluster_id,
            snapshot.settings,
        )
    )


def encode_member(member: Member) -> bytes:
    """One member as JSON, as it stands in the listing of all."""
    return _encode(_list_member(member))


def decode_members(data: bytes) -> MembershipSnapshot:
    """Read a listing of all members.

    :raises ValueError: the data is no such listing.
    """
    try:
        listing = _decode(data)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    members = tuple(_read_member(listed) for listed in listing.members)
    return MembershipSnapshot(
        listing.version, listing.generation_high, members, listing.cluster_id, listing.settings
    )


def _list_member(member: Member) -> _ListedMember:
    host, port = Address.parse(member.address)
    return _ListedMember(
        member.generation,
        member.address,
        member.status.name,
        member.lease_counter,
        member.metadata,
        member.votes,
        host,
        port,
        member.manifest_digest,
    )


def _read_member(listed: _ListedMember) -> Member:
    status = MemberStatus.__members__.get(listed.status, _UNKNOWN)
    return Member(
        listed.generation,
        listed.address,
        status,
        listed.lease_counter,
        listed.metadata,
        listed.votes,
        listed.manifest_digest,
    )
