"""The calls of the demo: who sends them, and what became of each."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import rio
from examples.metric_aggregator.service import Metric, Record

CALL_TIMEOUT = 30.0
"""Seconds; longer than it takes to notice a dead server, so that calls ride that out."""
TAGS = ("cpu", "disk", "network", "eu", "us")
TAGGED = 0.05
"""One call in twenty carries a tag."""


def value_of(number: int) -> float:
    """The value of the point with this number, so that sums can be checked too. Whole, so that floats add up exactly."""
    return float(number % 1000)


@dataclass
class Ledger:
    """The client's own books: what it was told about each call. Calls are known by their number."""

    acknowledged: dict[str, set[int]] = field(default_factory=dict)
    """By metric: answered, so they must be found in its state exactly once."""
    unknown: dict[str, set[int]] = field(default_factory=dict)
    """By metric: neither answered nor refused (the connection broke), so they may be there once or not at all."""
    refused: dict[str, set[int]] = field(default_factory=dict)
    """By metric: not executed, as the client was told, so they must not be there."""
    errors: dict[str, int] = field(default_factory=dict)
    """How often each class of error was met."""
    latencies: list[float] = field(default_factory=list)
    """Seconds of each acknowledged call."""
    homes: dict[str, str] = field(default_factory=dict)
    """The server that answered last for each metric."""

    @property
    def calls(self) -> int:
        return len(self.latencies)

    def acknowledge(self, metric: str, number: int, server: str, seconds: float) -> None:
        self.acknowledged.setdefault(metric, set()).add(number)
        self.latencies.append(seconds)
        self.homes[metric] = server

    def fail(self, metric: str, number: int, error: rio.RioError) -> None:
        book = self.refused if isinstance(error, rio.errors.NotExecuted) else self.unknown
        book.setdefault(metric, set()).add(number)
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1


class Recovery:
    """How long the objects of a killed server are away."""

    def __init__(self, lost: set[str]) -> None:
        self.killed_at = time.monotonic()
        self.lost = lost
        self.back: dict[str, float] = {}
        """Seconds after the kill at which each was seen to answer a call that was made after the kill."""
        self.complete = asyncio.Event()

    def answered(self, metric: str, began: float) -> None:
        if metric in self.lost and metric not in self.back and began >= self.killed_at:
            self.back[metric] = time.monotonic() - self.killed_at
            if len(self.back) == len(self.lost):
                self.complete.set()


class Load:
    """Many tasks that send points without a pause, each to one metric; several share a metric, and several share a client."""

    def __init__(self, clients: Sequence[rio.Client], metrics: Sequence[str], writers_per_metric: int) -> None:
        self.ledger = Ledger()
        self.recovery: Recovery | None = None
        self._numbers = itertools.count(1)
        self._rng = random.Random(2026)
        self._stopping = False
        turns = itertools.cycle(clients)
        self._writers = [(next(turns), metric) for metric in metrics for _ in range(writers_per_metric)]

    async def run(self) -> None:
        """Send until :meth:`stop`, and await the last answers."""
        async with asyncio.TaskGroup() as group:
            for client, metric in self._writers:
                group.create_task(self._write(client, metric))

    def stop(self) -> None:
        self._stopping = True

    async def _write(self, client: rio.Client, metric: str) -> None:
        while not self._stopping:
            number = next(self._numbers)
            message = Record(value_of(number), number, self._tags())
            began = time.monotonic()
            try:
                recorded = await client.send(Metric, metric, message, timeout=CALL_TIMEOUT)
            except rio.RioError as error:
                self.ledger.fail(metric, number, error)
                continue
            self.ledger.acknowledge(metric, number, recorded.server, time.monotonic() - began)
            if self.recovery is not None:
                self.recovery.answered(metric, began)

    def _tags(self) -> tuple[str, ...]:
        return (self._rng.choice(TAGS),) if self._rng.random() < TAGGED else ()
