"""Whether one order of its operations explains the answers of a register (Wing and Gong; Lowe)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

MOST_STEPS = 1_000_000


class Operation(NamedTuple):
    """``set``: hold ``new`` if the register holds ``expected``. With ``new`` = 0, a ``get``."""

    began: float
    ended: float
    """When it ended; infinite if the caller does not know whether it ran.

    Then it may have taken effect at any time, or not at all.
    """
    expected: int
    new: int
    answer: int | None
    """What the register held afterwards, if that is known."""

    def after(self, held: int) -> int:
        return self.new if self.new and held == self.expected else held


def linearizable(operations: Sequence[Operation], initial: int) -> bool:
    """Whether some order of the operations explains every answer.

    :raises RuntimeError: finding out would take too long.
    """
    operations = sorted(operations, key=lambda operation: operation.began)
    wanted = sum(
        1 << number for number, operation in enumerate(operations) if operation.ended < math.inf
    )
    tried: set[tuple[int, int]] = set()
    stack = [(0, initial)]
    while stack:
        state = stack.pop()
        if state in tried:
            continue
        tried.add(state)
        if len(tried) > MOST_STEPS:
            raise RuntimeError(
                f"{len(operations)} operations are too many, or too many of them are of unknown "
                "outcome"
            )
        done, held = state
        if done & wanted == wanted:
            return True
        stack.extend(_next(operations, done, held))
    return False


def _next(operations: Sequence[Operation], done: int, held: int) -> list[tuple[int, int]]:
    """The operations that may come next: they began before any that is left had ended."""
    states = []
    earliest = math.inf
    for number, operation in enumerate(operations):
        if operation.began > earliest:
            break
        if not done >> number & 1:
            earliest = min(earliest, operation.ended)
            after = operation.after(held)
            if operation.answer in (None, after):
                states.append((done | 1 << number, after))
    return states
