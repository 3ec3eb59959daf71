"""The messages of the members, and the table into which their news go. An execution is a message or
a state.
"""

from __future__ import annotations

import msgpack

from fuzz.mutator import Mutator
from rio._core.gossip import MAX_STATE, MemberTable
from rio.cluster.gossip import messages
from rio.errors import ProtocolError
from rio.transport import protocol

GOOD = [3, 9, [4, 1, 5, 2], [[4, 0, 1, b"m", [1, 2]], [10, 7, 2, b"meta" * 9, [3, 2**40]]]]
STATES = [
    msgpack.packb(GOOD),
    msgpack.packb([0, 0, [], []]),
    msgpack.packb([0, 0, [], [[4, 2, 1, b"", []]]]),
    msgpack.packb([2**60, 2**62, [1, 0, 2**33, 3, 2**61, 5], []]),
]
HEADS = [[kind, 4, 5, 3, 0, STATES[2]] for kind in range(1, 8)]
TAILS: list[list[object]] = [[7], [7], [7], [7, 4], [], [list(range(64))], [2**64 - 1]]
MESSAGES = [msgpack.packb([10, 0, [*head, *tail]]) for head, tail in zip(HEADS, TAILS, strict=True)]
CORPUS = [*STATES * 2, *MESSAGES]


class Target:
    def __init__(self) -> None:
        self._other = MemberTable()
        self._other.merge(STATES[0])

    def make(self, mutator: Mutator) -> bytes:
        return mutator.mutant()

    def run(self, conversation: bytes) -> int:
        if conversation[:2] == b"\x93\x0a":
            try:
                message = messages.decode(protocol.read_gossip(conversation))
            except ProtocolError:
                return 1
            self._merge(message.state)
        else:
            self._merge(conversation)
        return 1

    def _merge(self, state: bytes) -> None:
        table = MemberTable()
        try:
            table.merge(state)
        except ProtocolError:
            assert (len(table), table.version) == (0, 0), (
                "it was refused, and has changed something"
            )
            return
        encoded = table.encode()
        assert len(encoded) <= MAX_STATE
        again = MemberTable()
        again.merge(encoded)
        assert again.encode() == encoded, "what it says is taken for something else"
        assert table.merge(state) == [], "the same news were news twice"
        try:
            again.merge(self._other.encode())
        except ProtocolError:
            return  # together they exceed a bound
        table.merge(self._other.encode())
        assert table.encode() == again.encode()
        assert table.digests() == again.digests()

    def close(self) -> None: ...
