"""Compare what the objects hold with the acknowledgements that the writers received."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import rio
from examples.metric_aggregator.load import Book, value_of
from examples.metric_aggregator.service import Metric, Read, Receipts, Report


@dataclass
class Verdict:
    """What the audit found. Fields count calls unless their docstring says otherwise."""

    lost: int = 0
    """Acknowledged calls that are not in the state."""
    twice: int = 0
    """Calls that the state counts more than once."""
    ghosts: int = 0
    """Calls in the state that their writer never sent, or that a server said it did not run."""
    unknown: int = 0
    """Calls whose outcome the writer does not know."""
    unknown_applied: int = 0
    """The unknown calls that are in the state. A call of unknown outcome may be there or not."""
    wrong_sums: int = 0
    """Metrics whose count or sum differs from that of the points that they took."""

    @property
    def good(self) -> bool:
        """Whether the audit found nothing that must not happen."""
        return not (self.lost or self.twice or self.ghosts or self.wrong_sums)


async def audit(client: rio.Client, books: Iterable[Book]) -> tuple[Verdict, set[str]]:
    """Read every metric back, and return the verdict and the servers that answered."""
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
