"""Comparing what the objects hold with what the writers were told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import rio
from examples.metric_aggregator.load import Book, value_of
from examples.metric_aggregator.service import Metric, Read, Receipts, Report


@dataclass
class Verdict:
    """What was found, in calls where nothing else is said."""

    lost: int = 0
    """Acknowledged, and not in the state."""
    twice: int = 0
    """In the state more than once."""
    ghosts: int = 0
    """In the state, although the writer was told that they did not run, or never sent them."""
    unknown: int = 0
    """The writer does not know what became of them."""
    unknown_applied: int = 0
    """Those of them that are in the state. Both are allowed."""
    wrong_sums: int = 0
    """Metrics whose count or sum is not that of the points that they took."""

    @property
    def good(self) -> bool:
        return not (self.lost or self.twice or self.ghosts or self.wrong_sums)


async def audit(client: rio.Client, books: Iterable[Book]) -> tuple[Verdict, set[str]]:
    """Read every metric back. Returns what was found, and which servers answered."""
    verdict, reports = Verdict(), dict[str, Report]()
    for book in books:
        if book.metric not in reports:
            reports[book.metric] = await client.ref(Metric, book.metric).read(Read())
        _compare(book, reports[book.metric].receipts.get(book.sender, Receipts()), verdict)
    verdict.wrong_sums = sum(not _adds_up(report) for report in reports.values())
    return verdict, {report.server for report in reports.values()}


def _compare(book: Book, receipts: Receipts, verdict: Verdict) -> None:
    taken = receipts.taken
    verdict.lost += len(book.acknowledged - taken)
    verdict.twice += receipts.repeated
    verdict.ghosts += len(taken - book.acknowledged - book.unknown)
    verdict.unknown += len(book.unknown)
    verdict.unknown_applied += len(book.unknown & taken)


def _adds_up(report: Report) -> bool:
    taken = [number for receipts in report.receipts.values() for number in receipts.taken]
    return report.summary.count == len(taken) and report.summary.sum == sum(map(value_of, taken))
