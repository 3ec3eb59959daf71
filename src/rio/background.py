"""Tasks of our own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def start(
    work: Coroutine[Any, Any, T],
    name: str | None = None,
    *,
    loop: asyncio.AbstractEventLoop | None = None,
    context: contextvars.Context | None = None,
) -> asyncio.Task[T]:
    """A task whose first step comes at the next turn of the loop.

    ``loop.create_task()`` runs that step before it returns if the program has set the eager task
    factory: then the task may have ended before its owner could keep it, and is kept as if it ran.
    """
    return asyncio.Task(work, loop=loop or asyncio.get_running_loop(), name=name, context=context)
