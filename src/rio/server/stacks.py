"""Where a task waits, for a person who reads the log."""

from __future__ import annotations

import asyncio
import traceback
from types import FrameType
from typing import Any


def stack_of(task: asyncio.Task[Any]) -> str:
    """The lines at which a task and the coroutines that it awaits stand, the innermost last."""
    frames = list(_frames_of(task.get_coro()))
    stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames)
    return "".join(stack.format()).rstrip()


def _frames_of(awaited: Any) -> list[FrameType]:
    """The frames of a chain of coroutines that await each other."""
    frames = []
    while (frame := getattr(awaited, "cr_frame", None)) is not None:
        frames.append(frame)
        awaited = awaited.cr_await
    return frames
