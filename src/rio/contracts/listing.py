"""The membership as JSON: what a node shows to browsers, and what
:class:`rio.storage.http.HttpMembershipStorage` reads.

::

    {"version": 5, "generation_high": 2, "members": [{
        "generation": 2, "address": "10.0.0.2:5000", "host": "10.0.0.2", "port": 5000, "status": "ACTIVE",
        "lease_counter": 17, "metadata": "", "votes": [{"voter": 1, "at": 3.5}]
    }]}

``metadata`` is Base64. A reader ignores what it does not know.
"""

from __future__ import annotations

import msgspec

from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus, Vote
from rio.identity import Address


class _Member(msgspec.Struct):
    generation: int
    address: str
    status: str
    lease_counter: int
    metadata: bytes
    votes: tuple[Vote, ...]
    host: str = ""
    """``address`` once more, for people."""
    port: int = 0


class _Listing(msgspec.Struct):
    version: int
    generation_high: int
    members: list[_Member]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Listing).decode


def encode_members(snapshot: MembershipSnapshot) -> bytes:
    """The whole snapshot."""
    return _encode(
        _Listing(
            snapshot.version,
            snapshot.generation_high,
            [_listed(member) for member in snapshot.members],
        )
    )


def encode_member(member: Member) -> bytes:
    """One member, as it stands in the whole."""
    return _encode(_listed(member))


def decode_members(data: bytes) -> MembershipSnapshot:
    """
    :raises ValueError: this is no listing of members.
    """
    listing = _decode(data)
    return MembershipSnapshot(
        listing.version,
        listing.generation_high,
        tuple(_member(member) for member in listing.members),
    )


def _listed(member: Member) -> _Member:
    host, port = Address.parse(member.address)
    return _Member(
        member.generation,
        member.address,
        member.status.name,
        member.lease_counter,
        member.metadata,
        member.votes,
        host,
        port,
    )


def _member(listed: _Member) -> Member:
    status = MemberStatus.__members__.get(listed.status)
    if status is None:
        raise ValueError(f"there is no status {listed.status!r}")
    return Member(
        listed.generation,
        listed.address,
        status,
        listed.lease_counter,
        listed.metadata,
        listed.votes,
    )
