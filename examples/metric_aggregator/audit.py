"""Comparing what the objects hold with what the client was told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import rio
from examples.metric_aggregator.load import Ledger, value_of
from examples.metric_aggregator.service import Metric, Read, Report


@dataclass
class Verdict:
    lost: int = 0
    """Acknowledged, and not in the state."""
    twice: int = 0
    """In the state more than once."""
    ghosts: int = 0
    """In the state although the client was told that they did not run, or although nobody sent them to this metric."""
    unknown_applied: int = 0
    """Of the calls whose outcome the client does not know: those that did run. Allowed."""
    wrong_sums: int = 0
    """Metrics whose count or sum is not that of their points."""

    @property
    def good(self) -> bool:
        return not (self.lost or self.twice or self.ghosts or self.wrong_sums)


async def audit(client: rio.Client, metrics: list[str], ledger: Ledger) -> tuple[Verdict, set[str]]:
    """Read every metric back. Returns what was found, and which servers answered."""
    verdict, servers = Verdict(), set()
    for metric in metrics:
        report = await client.ref(Metric, metric).read(Read())
        servers.add(report.server)
        _judge(metric, report, ledger, verdict)
    return verdict, servers


def _judge(metric: str, report: Report, ledger: Ledger, verdict: Verdict) -> None:
    found = Counter(report.numbers)
    acknowledged, unknown = ledger.acknowledged.get(metric, set()), ledger.unknown.get(metric, set())
    verdict.lost += len(acknowledged - found.keys())
    verdict.twice += sum(times - 1 for times in found.values())
    verdict.ghosts += len(found.keys() - acknowledged - unknown)
    verdict.unknown_applied += len(unknown & found.keys())
    expected = (len(report.numbers), sum(value_of(number) for number in report.numbers))
    verdict.wrong_sums += (report.summary.count, report.summary.sum) != expected
