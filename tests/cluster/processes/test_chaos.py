"""What ``make chaos`` does for minutes works, and reports its findings."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.cluster.processes import chaos
from tests.cluster.processes.chaos import Figures, Settings
from tests.cluster.processes.history import Finding


async def test_a_short_run_breaks_things_and_finds_nothing(tmp_path: Path) -> None:
    figures = await chaos.run(
        Settings({"MINUTES": "0.1", "SEED": "4", "PRESET": "local"}), None, tmp_path, print
    )
    assert figures.findings == []
    assert figures.faults.total() > 0
    assert figures.acknowledged_writes > 0


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        ("lost", "  lost"),
        ("doubled", "  applied twice"),
        ("overlap", "double activations"),
        ("stale", "stale answers and others"),
    ],
)
def test_a_finding_is_counted_printed_and_is_an_error(
    kind: str,
    row: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    async def find(*_: object, **__: object) -> Figures:
        return Figures(findings=[Finding(kind, "planted")])  # type: ignore[arg-type]  # any of them

    monkeypatch.setattr(chaos, "run", find)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert chaos.main({"SEED": "4"}) == 1
    printed = capsys.readouterr().out
    assert [line.split()[-4:] for line in printed.splitlines() if line.startswith(row)] == [
        ["1", "must", "be", "0"]
    ]
    assert f"{kind}: planted" in printed
    assert "make chaos SEED=4" in printed


def test_without_a_finding_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    async def find_nothing(*_: object, **__: object) -> Figures:
        return Figures()

    monkeypatch.setattr(chaos, "run", find_nothing)
    assert chaos.main({}) == 0


async def test_a_short_run_makes_the_storage_go_back_in_time_and_finds_nothing(
    tmp_path: Path,
) -> None:
    faults = "database restored,placements lost"
    settings = Settings({"MINUTES": "0.15", "SEED": "3", "PRESET": "local", "FAULTS": faults})
    figures = await chaos.run(settings, None, tmp_path, print)
    assert figures.findings == []
    assert figures.faults.total() > 0
    assert figures.acknowledged_writes > 0


def test_a_file_has_no_standby() -> None:
    with pytest.raises(SystemExit, match="there is no 'standby promoted'"):
        Settings({"STORAGE": "sqlite", "FAULTS": "standby promoted"})
    assert "standby promoted" in Settings({"STORAGE": "redis"}).faults


@pytest.mark.parametrize("variable", ["STORAGE", "PRESET", "FAULTS"])
def test_what_is_not_known_is_refused_with_what_is(variable: str) -> None:
    with pytest.raises(SystemExit, match=r"there is no 'x': choose from \w+"):
        Settings({variable: "x"})
