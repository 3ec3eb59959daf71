"""The figures of a run, what each is compared with, and the table that shows them."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec

from bench.processes import cpu_seconds


class Figure(msgspec.Struct, omit_defaults=True):
    question: str
    """The benchmark file."""
    what: str
    value: float
    unit: str
    beside: str = ""
    """What was measured in the same run, for comparison."""
    beside_value: float = 0.0
    at_most: float | None = None
    at_least: float | None = None
    ratio_at_most: float | None = None
    ratio_at_least: float | None = None

    @property
    def ratio(self) -> float | None:
        return self.value / self.beside_value if self.beside_value else None

    @property
    def target(self) -> str:
        for limit, sign, of_ratio in self._limits():
            return f"{sign} {number(limit)}{' x' if of_ratio else ''}"
        return ""

    @property
    def verdict(self) -> str:
        for limit, sign, of_ratio in self._limits():
            value = self.ratio if of_ratio else self.value
            assert value is not None
            return "met" if (value <= limit if sign == "≤" else value >= limit) else "MISSED"
        return ""

    def _limits(self) -> Iterable[tuple[float, str, bool]]:
        limits = (
            (self.at_most, "≤", False),
            (self.at_least, "≥", False),
            (self.ratio_at_most, "≤", True),
            (self.ratio_at_least, "≥", True),
        )
        return [(limit, sign, of_ratio) for limit, sign, of_ratio in limits if limit is not None]

    def row(self) -> tuple[str, ...]:
        beside = f"{self.beside} {number(self.beside_value)}" if self.beside else ""
        ratio = f"{self.ratio:.2f}" if self.ratio is not None else ""
        return (
            self.what,
            f"{number(self.value)} {self.unit}",
            beside,
            ratio,
            self.target,
            self.verdict,
        )


def number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


HEAD = ("", "measured", "beside it", "ratio", "target", "")


def table(figures: Iterable[Figure]) -> list[str]:
    """The table, line by line, with an empty line before each question."""
    rows = [HEAD, *(figure.row() for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines, question = [_line(HEAD, widths)], ""
    for figure in figures:
        if figure.question != question:
            question = figure.question
            lines += ["", f"{question}:"]
        lines.append(_line(figure.row(), widths))
    return lines


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    what, *others = cells
    return "  ".join(
        [
            what.ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)),
        ]
    ).rstrip()


def save(figures: list[Figure], path: Path) -> None:
    """Write all figures as JSON, with a description of the machine."""
    record = {
        "python": sys.version,
        "machine": platform.platform(),
        "cpu": _cpu(),
        "load_average": os.getloadavg()[
            1
        ],  # of five minutes; the benchmarks themselves add between 1 and 2
        "figures": figures,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    models = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{len(models)} x {models[0]}" if models else platform.processor()


# --- measuring ------------------------------------------------------------------------------------


class Work:
    """Work in rounds of ``size`` calls.

    For each round it keeps the time on the clock and the time of the CPUs of some processes.
    """

    def __init__(
        self,
        do: Callable[[], object],
        size: int,
        *pids: int,
        before: Callable[[], object] = lambda: None,
    ) -> None:
        self.size = size
        self.before = before
        """Prepare a round. This is not measured."""
        self._do = do
        self._pids = pids
        self._seconds: list[float] = []
        self._cpu: list[float] = []

    def __call__(self) -> None:
        cpu, began = self._used(), time.perf_counter()
        self._do()
        self._seconds.append(time.perf_counter() - began)
        self._cpu.append(self._used() - cpu)

    def forget(self) -> None:
        """Forget what was measured so far: it was the warm-up."""
        self._seconds.clear()
        self._cpu.clear()

    def _used(self) -> float:
        return sum(map(cpu_seconds, self._pids))

    @property
    def seconds(self) -> float:
        """Seconds on the clock for one call in the fastest round.

        The rest of the machine has disturbed that round the least.
        """
        return min(self._seconds) / self.size

    @property
    def rate(self) -> float:
        """Calls a second."""
        return 1 / self.seconds

    @property
    def cpu_micros(self) -> float:
        """Seconds of all processes' CPUs for one call in the median round."""
        return statistics.median(self._cpu) / self.size * 1e6


def in_turn(benchmark: Any, work: Work, *others: Work, rounds: int) -> None:
    """Rounds of ``work``, for pytest-benchmark's table.

    The works take turns, a round each, so that a disturbance hits all of them.
    """
    for each in (work, *others):
        each.before()
        each()
        each.forget()

    def measure_others() -> None:
        for other in others:
            other.before()
            other()
        work.before()

    benchmark.pedantic(work, setup=measure_others, rounds=rounds)
