"""Tasks of our own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Coroutine
from typing import Any, TypeVar

from rio._core import task as core

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


def start_now(
    work: Coroutine[Any, Any, T], name: str, *, loop: asyncio.AbstractEventLoop
) -> asyncio.Task[T]:
    """A task that has made its first step, and may have ended: it need not wait for a turn."""
    return core.start_now(work, loop=loop, name=name, context=contextvars.copy_context())
