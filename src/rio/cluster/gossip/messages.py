"""The messages that the members of a cluster send each other, as they stand on the wire.

Each is a MessagePack array in the payload of a GOSSIP frame: the kind, what every message says
(:class:`GossipMessage`), and what only its kind says.
"""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from rio.errors import ProtocolError

MAX_MESSAGE = 32 * 1024
"""Bytes of one message."""

RECORDS_PER_MESSAGE = 64
"""Records of the member table in one message, at most."""

BUCKETS = 64
"""Parts of the member table that two members compare by their digests."""

ALL_BUCKETS = (1 << BUCKETS) - 1

Number: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=0x7FFF_FFFF_FFFF_FFFF)]


class GossipMessage(msgspec.Struct, frozen=True, array_like=True):
    """What every message says."""

    to: Number
    """The generation that the sender wants to talk to.

    Another member at the same address does not answer.
    """
    source: Number
    """The sender's generation."""
    version: Number
    """The version of the newest snapshot that the sender itself has read from the storage."""
    health: Number
    """How far the sender distrusts its own senses, from 0 (not at all) to 8."""
    state: bytes
    """News, as an encoded :class:`~rio._core.gossip.MemberTable`; empty if there is none."""


class Ping(GossipMessage, frozen=True, array_like=True, tag=1):
    """Asks for an :class:`Ack` with the same number."""

    number: Number


class Ack(GossipMessage, frozen=True, array_like=True, tag=2):
    """Answers a :class:`Ping`, or a :class:`PingRequest` whose target has answered."""

    number: Number


class Nack(GossipMessage, frozen=True, array_like=True, tag=3):
    """Answers a :class:`PingRequest`: the sender is alive, but has no answer from the target."""

    number: Number


class PingRequest(GossipMessage, frozen=True, array_like=True, tag=4):
    """Asks the receiver to ping another member for the sender."""

    number: Number
    target: Number


class Update(GossipMessage, frozen=True, array_like=True, tag=5):
    """Carries news only."""


class Digest(GossipMessage, frozen=True, array_like=True, tag=6):
    """Begins a comparison of all that two members know."""

    digests: Annotated[tuple[int, ...], msgspec.Meta(min_length=BUCKETS, max_length=BUCKETS)]


class Difference(GossipMessage, frozen=True, array_like=True, tag=7):
    """Answers a :class:`Digest`. It carries the sender's snapshot if that is newer; the sender's
    records follow in :class:`Update` messages.
    """

    wanted: int
    """The buckets in which the two tables differ, as a bit mask: the receiver sends its own."""


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(
    Ping | Ack | Nack | PingRequest | Update | Digest | Difference
).decode


def decode(payload: bytes) -> GossipMessage:
    """Return the message that the payload of a GOSSIP frame holds.

    :raises ProtocolError: the payload is no message.
    """
    if len(payload) > MAX_MESSAGE:
        raise ProtocolError(f"a message of {len(payload)} bytes is larger than {MAX_MESSAGE}")
    try:
        message: GossipMessage = _decode(payload)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as cause:
        raise ProtocolError(f"a message does not decode: {cause}") from cause
    return message
