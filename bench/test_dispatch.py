"""What does a request cost from bytes in to bytes out, compiled and in plain Python?"""

from __future__ import annotations

import asyncio
import os
from types import ModuleType
from typing import Any

import pytest

from bench.dispatching import Dispatching
from bench.figures import Work, in_turn
from rio._core import dispatch
from tests.core import twin

REQUESTS = 64
REPEATED = 30


@pytest.mark.parametrize("is_async", [True, False], ids=["async", "plain"])
def test_dispatching(benchmark: Any, report: Any, runner: asyncio.Runner, is_async: bool) -> None:
    """64 requests for 64 objects arrive in one read.

    Each is parsed, finds its object, is decoded and handled; each reply is encoded and written.
    """

    async def made(core: ModuleType) -> Dispatching:
        return Dispatching(core, is_async=is_async, requests=REQUESTS)

    def work(core: ModuleType) -> Work:
        dispatching = runner.run(made(core))

        async def reads() -> None:
            for _ in range(REPEATED):
                dispatching.read()

        return Work(lambda: runner.run(reads()), REPEATED * REQUESTS, os.getpid())

    compiled, plain = work(dispatch), work(twin)
    in_turn(benchmark, compiled, plain, rounds=50)
    what = f"a request to {'an async def' if is_async else 'a def'} handler"
    report(what, compiled.cpu_micros * 1e3, "ns", beside=("twin", plain.cpu_micros * 1e3))
