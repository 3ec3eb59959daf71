"""The calls of the demo: who sends them, and what became of each."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import rio
from examples.metric_aggregator.service import Metric, Record

CALL_TIMEOUT = 30.0
"""Seconds; longer than it takes to notice a dead server, so that calls ride that out."""
TAGS = ("cpu", "disk", "network")
TAGGED = 6
"""One metric in so many carries a tag.

Its calls wait for the tag's server too, so not all of them do.
"""


def value_of(number: int) -> float:
    """The value of the point with this number, so that sums can be checked too.

    Whole, so that floats add up exactly.
    """
    return float(number % 1000)


@dataclass
class Book:
    """What one writer was told about its calls, which it numbers from 1."""

    metric: str
    sender: str
    tags: tuple[str, ...] = ()
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    """Answered: these must be found in the metric's state, once."""
    unknown: set[int] = field(default_factory=set)
    """Neither answered nor refused (the connection broke): these may be found there, once."""
    refused: set[int] = field(default_factory=set)
    """Not executed: these must not be found there."""

    def next_number(self) -> int:
        self.sent += 1
        return self.sent


@dataclass
class Tally:
    """What all writers together have met."""

    latencies: list[float] = field(default_factory=list)
    """Seconds of each acknowledged call."""
    errors: dict[str, int] = field(default_factory=dict)
    """How often each class of error was met."""
    homes: dict[str, str] = field(default_factory=dict)
    """By metric: the server that answered last."""

    @property
    def calls(self) -> int:
        return len(self.latencies)

    def met(self, error: rio.RioError) -> None:
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1


class Recovery:
    """How long the objects of a killed server are away. Make it just before the kill."""

    def __init__(self, lost: set[str]) -> None:
        self.lost = lost
        self.back: dict[str, float] = {}
        """By metric: seconds from the kill until it was seen to answer a call that was sent when
        the server was dead.
        """
        self.complete = asyncio.Event()
        self._began = time.monotonic()
        self._dead_since = float("inf")

    def died(self) -> None:
        """The server is gone: answers to calls from now on come from another."""
        self._dead_since = time.monotonic()

    @property
    def begun(self) -> bool:
        return self._dead_since < float("inf")

    def answered(self, metric: str, sent: float) -> None:
        if metric in self.lost and metric not in self.back and sent >= self._dead_since:
            self.back[metric] = time.monotonic() - self._began
            if len(self.back) == len(self.lost):
                self.complete.set()


class Load:
    """Many writers that send points without a pause, each to one metric; several share a metric,
    and many share a client.
    """

    def __init__(
        self, clients: Sequence[rio.Client], metrics: Sequence[str], writers_per_metric: int
    ) -> None:
        tags = {
            metric: (TAGS[index % len(TAGS)],) for index, metric in enumerate(metrics[::TAGGED])
        }
        self.books = [
            Book(metric, f"writer {number}", tags.get(metric, ()))
            for metric in metrics
            for number in range(writers_per_metric)
        ]
        self.tally = Tally()
        self.recovery: Recovery | None = None
        self._clients = clients
        self._stopping = False

    async def run(self) -> None:
        """Send until :meth:`stop`, and await the last answers."""
        async with asyncio.TaskGroup() as group:
            for client, book in zip(itertools.cycle(self._clients), self.books, strict=False):
                group.create_task(self._write(client, book))

    def stop(self) -> None:
        self._stopping = True

    async def _write(self, client: rio.Client, book: Book) -> None:
        while not self._stopping:
            number, sent = book.next_number(), time.monotonic()
            message = Record(value_of(number), book.tags, book.sender, number)
            try:
                recorded = await client.send(Metric, book.metric, message, timeout=CALL_TIMEOUT)
            except rio.RioError as error:
                (book.refused if isinstance(error, rio.errors.NotExecuted) else book.unknown).add(
                    number
                )
                self.tally.met(error)
            else:
                book.acknowledged.add(number)
                self._count(book.metric, recorded.server, sent)

    def _count(self, metric: str, server: str, sent: float) -> None:
        self.tally.latencies.append(time.monotonic() - sent)
        self.tally.homes[metric] = server
        if self.recovery is not None:
            self.recovery.answered(metric, sent)
