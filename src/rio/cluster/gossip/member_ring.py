"""The other members in a random order."""

from __future__ import annotations

import random
from collections.abc import Container, Iterable


class MemberRing:
    """The others, in the order in which they are probed: each once a round, and each round in
    another order.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._members: list[int] = []
        self._position = 0

    def __len__(self) -> int:
        return len(self._members)

    def next(self) -> int | None:
        """Return the member whose turn it is, or ``None`` where there are no others."""
        if self._position >= len(self._members):
            self._rng.shuffle(self._members)
            self._position = 0
        if not self._members:
            return None
        self._position += 1
        return self._members[self._position - 1]

    def choose(self) -> int:
        """Return one of the others; there must be one."""
        return self._rng.choice(self._members)

    def sample(self, most: int, *, excluded: Container[int] = ()) -> list[int]:
        """Return up to ``most`` different others that are not ``excluded``."""
        able = [member for member in self._members if member not in excluded]
        return self._rng.sample(able, min(most, len(able)))

    def insert(self, new: Iterable[int]) -> None:
        """Put each new member at a random place of the round, so that the others do not all probe
        it at once.
        """
        for generation in sorted(new):
            self._members.insert(self._rng.randint(0, len(self._members)), generation)

    def remove(self, gone: Container[int]) -> None:
        """Take out members that have ended."""
        self._members = [member for member in self._members if member not in gone]
