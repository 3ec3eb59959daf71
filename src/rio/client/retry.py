"""What a client does about a call that failed: the rules, without the doing."""

from __future__ import annotations

from enum import Enum, auto

from rio.errors import (
    Deadlock,
    Expired,
    NotActivated,
    NotExecuted,
    OutcomeUnknown,
    Redirected,
    RioError,
    UnknownCode,
    UnknownType,
)

MAX_REDIRECTS = 4
FIRST_DELAY = 0.04
"""Seconds before the first repetition, at most; doubled with each, up to the longest."""
LONGEST_DELAY = 1.0


class Next(Enum):
    """What to do with a call after an answer that is an error."""

    RAISE = auto()
    FOLLOW = auto()
    """Go to the node that is named."""
    ANOTHER = auto()
    """Ask another node at once."""
    LATER = auto()
    """Wait, then look for a node again."""


def decide(error: RioError, *, repeatable: bool) -> Next:
    """``repeatable``: the message is declared idempotent or readonly, so it may be sent again
    although it may have run.
    """
    match error:
        case Redirected():
            return Next.FOLLOW
        case UnknownType():
            return Next.ANOTHER
        case Expired() | NotActivated() | Deadlock() | UnknownCode():
            return Next.RAISE
        case NotExecuted():
            return Next.LATER
        case OutcomeUnknown():
            return Next.LATER if repeatable and not isinstance(error, TimeoutError) else Next.RAISE
        case _:
            return Next.RAISE
