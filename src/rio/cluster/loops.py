"""Loops that run side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

Loop = Callable[[], Coroutine[Any, Any, None]]


async def run_until_one_ends(*loops: Loop) -> None:
    """Run all of them until one returns or raises, then end the others.

    A loop whose task somebody else cancels begins anew: a node without one of its loops would only
    look alive.

    :raises Exception: what that one raises.
    """
    running = {asyncio.create_task(loop()): loop for loop in loops}
    ended: list[asyncio.Task[None]] = []
    try:
        while not ended:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in done if not task.cancelled()]
            for task in done.difference(ended):
                loop = running.pop(task)
                running[asyncio.create_task(loop())] = loop
        for task in ended:
            task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
