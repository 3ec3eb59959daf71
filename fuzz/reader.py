"""The reader of frames, beside one of a few lines. An execution is a stream of one to four frames,
of which one was mutated for it, and the others for earlier ones.
"""

from __future__ import annotations

from fuzz.mutator import Mutator
from rio._core.frame import FrameReader, ReceiveBuffer
from rio.errors import FrameTooLarge

LIMIT = 200
POOL = 1000
CORPUS = [b"", b"x", b"\x93\x02\x01\xc0", bytes(LIMIT - 1), bytes(LIMIT), bytes(LIMIT + 1)]


def cut(stream: bytes) -> tuple[list[bytes], bool]:
    """The frames in a stream, and whether it ends in one that is too large."""
    bodies, at = [], 0
    while at + 4 <= len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        if size > LIMIT:
            return bodies, True
        if at + 4 + size > len(stream):
            break
        bodies.append(stream[at + 4 : at + 4 + size])
        at += 4 + size
    return bodies, False


class Target:
    def __init__(self) -> None:
        self._shared = ReceiveBuffer()
        self._frames: list[bytes] = []
        self._next = 0

    def make(self, mutator: Mutator) -> bytes:
        """The first byte says how the stream that follows is split."""
        if len(self._frames) < POOL:
            self._frames += [mutator.frame() for _ in range(POOL)]
        self._next = (self._next + 1) % (POOL - 3)
        self._frames[self._next] = mutator.frame()
        frames = self._frames[self._next : self._next + 1 + mutator.below(4)]
        return b"".join((bytes((mutator.below(256),)), *frames))

    def run(self, conversation: bytes) -> int:
        how, stream = conversation[0], conversation[1:]
        wanted, is_too_large = cut(stream)
        reader = FrameReader(LIMIT, self._shared)
        split = how * len(stream) // 255 if how else len(stream)
        found: list[bytes] = []
        try:
            for piece in (stream[:split], stream[split:]):
                if how & 1:
                    found += reader.feed(piece)
                else:
                    room = memoryview(reader)
                    room[: len(piece)] = piece
                    reader.advance(len(piece))
                    FrameReader(LIMIT, self._shared).feed(piece[:3])  # others read meanwhile
                    if how & 2:
                        memoryview(FrameReader(LIMIT, self._shared))
                    found += reader
        except FrameTooLarge:
            # what feed() has found before it is lost
            assert is_too_large, "nothing is too large"
            assert found == wanted[: len(found)]
            return 1
        assert not is_too_large, "it took what is too large"
        assert found == wanted
        assert reader.buffered == len(stream) - sum(len(body) + 4 for body in wanted)
        return 1

    def close(self) -> None: ...
