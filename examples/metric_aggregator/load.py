"""The writers of the demo, and their record of what became of each call."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import rio
from examples.metric_aggregator.service import Metric, Record
from rio.errors import NotExecuted

CALL_TIMEOUT = 30.0
"""Seconds. Longer than the cluster needs to replace a dead server, so that calls survive that."""
TAGS = ("cpu", "disk", "network")
TAGGED = 6
"""One metric in this many carries a tag.

A call to such a metric also waits for the server of the tag, so most metrics carry none.
"""


def value_of(number: int) -> float:
    """Return the value of the point with this number, so that the audit can check sums too.

    Values are whole numbers, so that floats add up exactly.
    """
    return float(number % 1000)


@dataclass
class Book:
    """What one writer knows about its calls. The writer numbers its calls from 1."""

    metric: str
    sender: str
    tags: tuple[str, ...] = ()
    sent: int = 0
    acknowledged: set[int] = field(default_factory=set)
    """The server answered these calls: the metric's state must hold each of them once."""
    unknown: set[int] = field(default_factory=set)
    """Nobody knows whether these calls ran (the connection broke): the state may hold each once."""
    refused: set[int] = field(default_factory=set)
    """The server did not execute these calls: the state must not hold them."""

    def next_number(self) -> int:
        self.sent += 1
        return self.sent


@dataclass
class Tally:
    """What all writers together have seen."""

    latencies: list[float] = field(default_factory=list)
    """Seconds of each acknowledged call."""
    errors: dict[str, int] = field(default_factory=dict)
    """How often the writers saw each class of error."""
    homes: dict[str, str] = field(default_factory=dict)
    """By metric: the server that answered the last call."""

    @property
    def calls(self) -> int:
        return len(self.latencies)

    def count_error(self, error: rio.RioError) -> None:
        name = type(error).__name__
        self.errors[name] = self.errors.get(name, 0) + 1


class Recovery:
    """Measures how long the objects of a killed server are away. Create it just before the kill."""

    def __init__(self, lost: set[str]) -> None:
        self.lost = lost
        self.back: dict[str, float] = {}
        """By metric: seconds from the kill until the metric answered a call that a writer sent
        after the server was dead.
        """
        self.complete = asyncio.Event()
        self._began = time.monotonic()
        self._dead_since = float("inf")

    def note_death(self) -> None:
        """Note that the server is gone: another server answers the calls sent from now on."""
        self._dead_since = time.monotonic()

    @property
    def server_is_dead(self) -> bool:
        """Whether :meth:`note_death` was called."""
        return self._dead_since < float("inf")

    def note_answer(self, metric: str, sent: float) -> None:
        """Note an answer of a metric to a call that was sent at ``sent``."""
        if metric in self.lost and metric not in self.back and sent >= self._dead_since:
            self.back[metric] = time.monotonic() - self._began
            if len(self.back) == len(self.lost):
                self.complete.set()


class Load:
    """Many writers that send points without a pause, each writer to one metric.

    Several writers share a metric, and many writers share a client.
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
        """Send until :meth:`stop` is called, then await the last answers."""
        async with asyncio.TaskGroup() as group:
            for client, book in zip(itertools.cycle(self._clients), self.books, strict=False):
                group.create_task(self._write(client, book))

    def stop(self) -> None:
        """Make each writer end after its current call."""
        self._stopping = True

    async def _write(self, client: rio.Client, book: Book) -> None:
        while not self._stopping:
            number, sent = book.next_number(), time.monotonic()
            message = Record(value_of(number), book.tags, book.sender, number)
            try:
                recorded = await client.send(Metric, book.metric, message, timeout=CALL_TIMEOUT)
            except rio.RioError as error:
                (book.refused if isinstance(error, NotExecuted) else book.unknown).add(number)
                self.tally.count_error(error)
            else:
                book.acknowledged.add(number)
                self._count(book.metric, recorded.server, sent)

    def _count(self, metric: str, server: str, sent: float) -> None:
        self.tally.latencies.append(time.monotonic() - sent)
        self.tally.homes[metric] = server
        if self.recovery is not None:
            self.recovery.note_answer(metric, sent)
