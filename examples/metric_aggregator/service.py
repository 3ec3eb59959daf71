"""A metric aggregates the points that it receives, and informs the tags that a point carries.

Nothing here locks: an object handles one message at a time, on one server of the cluster. Nothing
here is lost: a metric answers a call when the state that the call made is on disk.
"""

from __future__ import annotations

import math

import msgspec

import rio


class Summary(rio.Message):
    """What a metric has seen so far."""

    count: int
    sum: float
    minimum: float
    maximum: float


class Recorded(rio.Message):
    """The answer to a point: the point is on disk."""

    summary: Summary
    server: str
    """The address of the server where the metric lives now."""


class Record(rio.Message[Recorded]):
    """One point of a metric."""

    value: float
    tags: tuple[str, ...] = ()
    sender: str = ""
    number: int = 0
    """A sender may number its points 1, 2, 3..., to check at the end that the metric took each
    point once. 0 means that the point has no number.
    """


class Receipts(rio.Message):
    """The points of one sender that the metric took: all up to ``last``, except the ``missing``."""

    last: int = 0
    missing: list[int] = msgspec.field(default_factory=list)
    repeated: int = 0
    """How many points the metric took again."""

    def add(self, number: int) -> None:
        if number > self.last:
            self.missing.extend(range(self.last + 1, number))
            self.last = number
        elif number in self.missing:
            self.missing.remove(number)
        else:
            self.repeated += 1

    @property
    def taken(self) -> set[int]:
        return set(range(1, self.last + 1)).difference(self.missing)


class Report(rio.Message):
    summary: Summary
    receipts: dict[str, Receipts]
    """The receipts by sender."""
    server: str


class Read(rio.Message[Report], readonly=True):
    """Ask a metric for everything that it knows."""


class Statistics(rio.State):
    """What a metric remembers."""

    count: int = 0
    sum: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf
    receipts: dict[str, Receipts] = msgspec.field(default_factory=dict)

    def add(self, value: float) -> None:
        self.count += 1
        self.sum += value
        self.minimum = min(self.minimum, value)
        self.maximum = max(self.maximum, value)

    def summary(self) -> Summary:
        return Summary(self.count, self.sum, self.minimum, self.maximum)


class Metric(rio.ServiceObject):
    statistics: Statistics = rio.managed_state()

    @rio.handler
    async def record(self, message: Record) -> Recorded:
        self.statistics.add(message.value)
        if message.number:
            self.statistics.receipts.setdefault(message.sender, Receipts()).add(message.number)
        await self.save_state()
        summary = self.statistics.summary()
        for tag in message.tags:
            await self.send(Tag, tag, Tagged(self.id, summary))
        return Recorded(summary, str(self.address))

    @rio.handler
    def read(self, message: Read) -> Report:
        return Report(self.statistics.summary(), self.statistics.receipts, str(self.address))


class Tagged(rio.Message[None], idempotent=True):
    """The newest summary of a metric, for a tag.

    Receiving it twice does no harm, so the client may send it again when an answer is lost.
    """

    metric: str
    summary: Summary


class Overview(rio.Message):
    metrics: dict[str, Summary]


class ReadTag(rio.Message[Overview], readonly=True):
    """Ask a tag for its metrics."""


class Members(rio.State):
    """What a tag remembers: the newest summary of each metric that carries it."""

    metrics: dict[str, Summary] = msgspec.field(default_factory=dict)


class Tag(rio.ServiceObject):
    members: Members = rio.managed_state()

    @rio.handler
    async def tagged(self, message: Tagged) -> None:
        known = self.members.metrics.get(message.metric)
        if known is None or known.count < message.summary.count:
            self.members.metrics[message.metric] = message.summary
            await self.save_state()

    @rio.handler
    def read(self, message: ReadTag) -> Overview:
        return Overview(self.members.metrics)


registry = rio.Registry(Metric, Tag)
