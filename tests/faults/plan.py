"""Points at which something can go wrong, and the plan of what does.

A run counts the points that it passes: each wait of a task of ours, and each call into what is not
ours. A run with a target fails at this one point, and nowhere else.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import rio
from rio.contracts.roles import ROLES, make_stand_in
from rio.contracts.state import StateStorage
from rio.storage import Storage

OURS = str(Path(rio.__file__).parent)
KIT = str(Path(rio.__file__).parent / "testing")
ROLE_NAMES = {row.name for row in ROLES}
CALLERS = {"Server.__aenter__", "Server.stop", "Client.close"}
"""What tasks of the scenario run: whoever cancels them wants that."""


class Broken(Exception):
    """What a planned fault raises."""


class Target(NamedTuple):
    """Which point fails, and how."""

    point: str
    """What is called, or whose task takes a step."""
    nth: int
    """Which time, from 1 on."""
    fault: str
    step: int = -1
    """Of a task: the wait at which it is cancelled; 0 is before its first step."""

    def __str__(self) -> str:
        step = "" if self.step < 0 else f" step {self.step}"
        return f"{self.point} #{self.nth}{step}: {self.fault}"


class Plan:
    """Counts the points, and fails at one of them."""

    def __init__(self, target: Target | None = None) -> None:
        self.target = target
        self.hit = False
        self.calls: Counter[str] = Counter()
        """How often each thing was called."""
        self.waits: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        """How many tasks ran each coroutine."""
        self.steps: dict[tuple[str, int], int] = {}
        """How often each of these tasks waited."""
        self.armed = True
        """Whether points are counted, and fail."""

    # --- calls --------------------------------------------------------------------------------

    def _is_due(self, point: str) -> str:
        """The fault of this call; empty if it has none."""
        if not self.armed:
            return ""
        self.calls[point] += 1
        target = self.target
        if target is None or (target.point, target.nth) != (point, self.calls[point]):
            return ""
        self.hit = True
        return target.fault

    def call(self, point: str) -> None:
        """A call that does not wait."""
        _raise(self._is_due(point), point)

    async def wait(self, point: str) -> None:
        """A call that may wait."""
        self.waits[point] += 1
        fault = self._is_due(point)
        if fault == "never returns":
            await asyncio.get_running_loop().create_future()
        _raise(fault, point)

    async def answer(self, point: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """A call into a storage."""
        self.waits[point] += 1
        fault = self._is_due(point)
        if fault == "never returns":
            await asyncio.get_running_loop().create_future()
        elif fault == "loses its answer":
            await work()
            raise Broken(point)
        _raise(fault, point)
        return await work()

    def wrap(self, storage: Storage) -> Storage:
        """A way to the storage on which each call is a point."""
        return Storage(**{row.name: self._wrap(row, getattr(storage, row.name)) for row in ROLES})

    def _wrap(self, row: Any, back_end: Any) -> Any:
        def call(method: str, *args: Any, **keywords: Any) -> Awaitable[Any]:
            work = getattr(back_end, method)
            return self.answer(f"{row.name}.{method}", lambda: work(*args, **keywords))

        def use_placement(_: Any, placement: Any) -> None:
            back_end.use_placement(getattr(placement, "back_end", placement))

        members: dict[str, Any] = {"back_end": back_end, "volatile": back_end.volatile}
        for name in ("why_not_durable", "history"):
            members[name] = property(lambda _, name=name: getattr(back_end, name))
        if row.contract is StateStorage:
            members |= {"atomic": back_end.atomic, "use_placement": use_placement}
        return make_stand_in(row.contract, call, **members)

    # --- tasks --------------------------------------------------------------------------------

    def watch(self, name: str, coroutine: Any) -> Any:
        self.tasks[name] += 1
        nth = self.tasks[name]
        self.steps[name, nth] = 0
        return Watched(self, name, nth, coroutine)

    def make_task(
        self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any
    ) -> asyncio.Task[Any]:
        """A task factory."""
        options = {key: value for key, value in options.items() if value is not None}
        name = getattr(coroutine, "__qualname__", "")
        if not _is_ours(coroutine) or name in CALLERS or not self.armed:
            return asyncio.Task(coroutine, loop=loop, **options)
        watched = self.watch(name, coroutine)
        task = asyncio.Task(watched, loop=loop, **options)
        watched.made(task)
        return task


class Watched:
    """A coroutine whose waits are points."""

    def __init__(self, plan: Plan, name: str, nth: int, coroutine: Any) -> None:
        self._plan = plan
        self._coroutine = coroutine
        self._key = (name, nth)
        self._step = 0
        target = plan.target
        self._target = target if target is not None and target[:2] == self._key else None

    def made(self, task: asyncio.Task[Any]) -> None:
        if self._target is not None and self._target.step == 0 and not task.done():
            self._cancel(task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        assert self._target is not None
        self._plan.hit = True
        task.cancel()
        if self._target.fault == "is cancelled twice":
            task.get_loop().call_soon(task.cancel)

    def _waits(self) -> None:
        self._step += 1
        if self._plan.armed:
            self._plan.steps[self._key] = self._step
        if self._target is not None and self._step == self._target.step:
            task = asyncio.current_task()
            assert task is not None
            task.get_loop().call_soon(self._cancel, task)

    def send(self, value: Any) -> Any:
        result = self._coroutine.send(value)
        self._waits()
        return result

    def throw(self, *error: Any) -> Any:
        result = self._coroutine.throw(*error)
        self._waits()
        return result

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self  # type: ignore[return-value]

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)


class Log(logging.Handler):
    """A handler of the log that may fail."""

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        self._plan = plan
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name}: {record.getMessage()}")
        self._plan.call(f"log of {record.name}")


def _raise(fault: str, point: str) -> None:
    if fault == "raises Exception":
        raise Broken(point)
    if fault == "raises CancelledError":
        raise asyncio.CancelledError(point)
    if fault == "raises SystemExit":
        raise SystemExit(point)


def _is_ours(coroutine: Any) -> bool:
    code = getattr(coroutine, "cr_code", None)
    return (
        code is not None
        and code.co_filename.startswith(OURS)
        and not code.co_filename.startswith(KIT)
    )
