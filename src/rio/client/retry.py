"""The rule by which a client tries again: what it does about a call that failed, and when."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

from rio.backoff import backoff
from rio.errors import (
    Deadlock,
    Expired,
    NotActivated,
    NotExecuted,
    OutcomeUnknown,
    Redirected,
    RioError,
    StateTooNew,
    UnknownCode,
    UnknownType,
)

if TYPE_CHECKING:
    import random

MAX_REDIRECTS = 4
FIRST_DELAY = 0.04
"""Seconds before the first repetition, at most; doubled with each, up to the longest."""
LONGEST_DELAY = 1.0


class Next(Enum):
    """What to do with a call after an answer that is an error."""

    RAISE = auto()
    FOLLOW = auto()
    """Ask the node that the error names."""
    ANOTHER = auto()
    """Ask another node at once."""
    LATER = auto()
    """Wait for :func:`delay`, then look for a node again."""


def decide(error: RioError, *, repeatable: bool) -> Next:
    """What to do with a call that ended in ``error``.

    ``repeatable``: the message is declared ``idempotent`` or ``readonly``, so it may be sent again
    although it may have run.
    """
    match error:
        case Redirected():
            return Next.FOLLOW
        case UnknownType() | StateTooNew():
            return Next.ANOTHER
        case Expired() | NotActivated() | Deadlock() | UnknownCode():
            return Next.RAISE
        case NotExecuted():
            return Next.LATER
        case OutcomeUnknown():
            return Next.LATER if repeatable and not isinstance(error, TimeoutError) else Next.RAISE
        case _:
            return Next.RAISE


def delay(attempts: int, rng: random.Random) -> float:
    """Seconds to wait after ``attempts`` in a row that failed."""
    return backoff(attempts, FIRST_DELAY, LONGEST_DELAY, rng)
