"""Where a task waits, and what a thread runs, for a person who reads the log."""

from __future__ import annotations

import asyncio
from itertools import islice, takewhile
from operator import itemgetter
from traceback import StackSummary, walk_stack
from types import FrameType
from typing import Any

MOST_FRAMES = 20


def stack_of(task: asyncio.Task[Any]) -> str:
    """The lines at which a task and the coroutines that it awaits stand, the innermost last."""
    return _format(_frames_of(task.get_coro()))


def lines_of(frame: FrameType) -> str:
    """The lines at which the code stands that an event loop has called, the innermost last.
    ``frame``: that of the innermost.
    """
    frames = takewhile(lambda each: not is_of_the_loop(each), map(itemgetter(0), walk_stack(frame)))
    return _format(list(islice(frames, MOST_FRAMES))[::-1])


def is_of_the_loop(frame: FrameType | None) -> bool:
    """Whether a frame is one of asyncio's own, or of the selector in which it waits."""
    while frame is not None and frame.f_globals.get("__name__") == "selectors":
        frame = frame.f_back
    return frame is None or frame.f_globals.get("__name__", "").partition(".")[0] == "asyncio"


def _format(frames: list[FrameType]) -> str:
    stack = StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(stack.format()).rstrip()


def _frames_of(awaited: Any) -> list[FrameType]:
    """The frames of a chain of coroutines that await each other."""
    frames = []
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append(frame)
        awaited = awaited.cr_await
    return frames
