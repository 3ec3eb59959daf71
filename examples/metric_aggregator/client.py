"""Record a few points, then read the statistics of each metric and the metrics of one tag."""

from __future__ import annotations

import argparse

import rio
from examples.metric_aggregator.service import Metric, Read, ReadTag, Record, Summary, Tag

POINTS = {
    "cpu.web-1": (0.4, 0.9, 0.2),
    "cpu.web-2": (0.5, 0.7),
    "cpu.db-1": (0.1,),
}


async def main(storage: str) -> None:
    async with rio.Client(storage) as client:
        for metric, values in POINTS.items():
            host = metric.partition(".")[2]
            for value in values:
                await client.send(Metric, metric, Record(value, tags=("cpu", host)))
        for metric in POINTS:
            report = await client.ref(Metric, metric).read(Read())
            print(f"{metric}: {describe(report.summary)}")
        overview = await client.ref(Tag, "cpu").read(ReadTag())
        print(f"tag cpu: {', '.join(sorted(overview.metrics))}")


def describe(summary: Summary) -> str:
    points = "1 point" if summary.count == 1 else f"{summary.count} points"
    mean = summary.sum / summary.count
    return f"{points}, mean {mean:.2f}, from {summary.minimum:g} to {summary.maximum:g}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--storage",
        required=True,
        help="the storage of the cluster, for example sqlite:///metrics.db",
    )
    rio.run(main(parser.parse_args().storage))
