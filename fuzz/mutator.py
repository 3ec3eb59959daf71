"""Changes what is well-formed: its bytes, its values, their order and their sizes."""

from __future__ import annotations

import re
from random import Random

import msgpack

WORD = re.compile(rb"\w+|\s+|.", re.DOTALL)

VALUES: list[bytes] = [
    *map(
        msgpack.packb,
        [
            *(None, True, False, 0, 1, 2, 3, 5, 6, 127, 128, 255, 256, 65_535, 65_536),
            *(2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -1, -33, -(2**31), -(2**63)),
            *(0.0, 1e308, float("nan"), float("inf"), "", "a", "\0", "ä" * 60, "x" * 128),
            *("x" * 129, "x" * 513, "*", "rio.subscribe", "Thing", "plain", "wait", "quick"),
            *(b"", b"x", b"x" * 64, b"x" * 300, [], [1], [[]], {}, {"n": 1}, {"n": 1, "do": "odd"}),
            *({"n": 1, "do": "raise"}, {"n": 1, "do": "close"}, {"n": 2**63 - 1}, {1: 2}),
        ],
    ),
    # heads of what never comes, in each size; what has no meaning; what is no UTF-8
    *(bytes([head]) for head in range(0x80, 0x100)),
    *(bytes([head]) + b"\xff" * 4 for head in (0xC6, 0xDB, 0xDD, 0xDF, 0xC9)),
    *(bytes([head, 0, 0]) for head in (0xC5, 0xDA, 0xDC, 0xDE)),
    b"\xa2\xff\xfe",
    b"\xa3\xed\xb3\xbf",
    b"\x91" * 300,
    b"\xcd\x00\x01",
    b"\xcf\x00\x00\x00\x00\x00\x00\x00\x01",
    b"\xd3\x00\x00\x00\x00\x00\x00\x00\x05",
]
"""Pieces of MessagePack that are put where others were."""

TEXTS: list[bytes] = [
    *(b"", b"\0", b"\xff", b"\xc3", b"\xed\xb3\xbf", b'"', b"'", b'"""', b"\\", b"\\u0000"),
    *(b"\\uD800", b"\\U00110000", b"[", b"]", b"[[", b"{", b"}", b"=", b".", b",", b"#", b"\n"),
    *(b"\r", b"\t", b"*", b"true", b"nan", b"inf", b"0x", b"1e999", b"9" * 5000, b"-0"),
    *(b"1979-05-27T07:32:00Z", b"0000-00-00", b"[" * 3000, b"{a=" * 3000, b"a." * 3000 + b"a=1"),
    *(b"x" * 5000, b"/", b"..", b"keys", b"id", b"role", b"secret", b"allow", b"encryption", b"ca"),
    *(b"certificate", b"private_key", b"node", b"admin", b"call", b"observe", b"none", b"key"),
]
"""Pieces of text that are put where others were."""


class Mutator:
    """Makes mutants of the pieces of one corpus. The same seed makes the same mutants."""

    def __init__(self, corpus: list[bytes], seed: int, *, is_text: bool = False) -> None:
        self.random = Random(seed)
        self._parts = [WORD.findall(piece) if is_text else values_of(piece) for piece in corpus]
        self._all = [part for parts in self._parts for part in parts] or [b""]
        self._spare = TEXTS if is_text else VALUES

    def below(self, limit: int) -> int:
        return int(self.random.random() * limit)

    def mutant(self) -> bytes:
        """A piece with one to three changes."""
        random = self.random.random
        parts = self._parts[int(random() * len(self._parts))].copy()
        changes = int(random() * 3) + 1
        while changes and parts:
            changes -= 1
            at = int(random() * len(parts))
            match int(random() * 8):
                case 0 | 1:
                    parts[at] = self._spare[int(random() * len(self._spare))]
                case 2:
                    parts[at] = self._all[int(random() * len(self._all))]
                case 3:
                    del parts[at]
                case 4:
                    parts.insert(at, parts[int(random() * len(parts))])
                case 5:
                    other = int(random() * len(parts))
                    parts[at], parts[other] = parts[other], parts[at]
                case 6 if parts[at]:
                    changed = bytearray(parts[at])
                    changed[int(random() * len(changed))] ^= 1 << int(random() * 8)
                    parts[at] = bytes(changed)
                case _:
                    part = parts[at]
                    parts[at] = part[: int(random() * (len(part) + 1))]
        return b"".join(parts)

    def frame(self) -> bytes:
        """A mutant with its size before it; now and then with another."""
        body = self.mutant()
        size = len(body)
        if self.random.random() < 0.01:
            size = (size + self.below(9) - 4) % 2**32 if self.below(2) else 1 << self.below(32)
        return size.to_bytes(4, "big") + body

    def stream(self, frames: int) -> bytes:
        """So many mutants, each with its size before it."""
        bodies = [self.mutant() for _ in range(frames)]
        return b"".join(len(body).to_bytes(4, "big") + body for body in bodies)


def values_of(data: bytes) -> list[bytes]:
    """The values in MessagePack, one after the other; a head that others follow is one of its own.
    What is none is one byte each.
    """
    parts, at = [], 0
    while at < len(data):
        size = _size_of(data, at)
        parts.append(data[at : at + size])
        at += size
    return parts


SIZES = {
    **dict.fromkeys((0xCC, 0xD0), 2),
    **dict.fromkeys((0xCD, 0xD1, 0xDC, 0xDE), 3),
    **dict.fromkeys((0xCE, 0xD2, 0xCA, 0xDD, 0xDF), 5),
    **dict.fromkeys((0xCF, 0xD3, 0xCB), 9),
}
WIDTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}


def _size_of(data: bytes, at: int) -> int:
    head = data[at]
    if 0xA0 <= head <= 0xBF:
        return 1 + head - 0xA0
    if head in WIDTHS:
        width = WIDTHS[head]
        return 1 + width + int.from_bytes(data[at + 1 : at + 1 + width], "big")
    return SIZES.get(head, 1)
