"""``make fuzz`` for a moment: nothing that once broke something does so any more, and a few mutants
of each target find nothing new.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.__main__ import CORPUS, TARGETS, fuzz, replay, saved

SHORT = {"reader": 20_000, "gossip": 10_000, "hello": 2_000, "security_file": 300}
"""Conversations of a short run; of the others 50, which are of many frames each."""


@pytest.mark.parametrize(
    "path",
    [path for target in TARGETS for path in saved(target)],
    ids=lambda path: str(path.relative_to(CORPUS)),
)
def test_what_once_broke_something_breaks_it_no_more(path: Path) -> None:
    replay(path)


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(target, marks=pytest.mark.processes if target == "server" else ())
        for target in TARGETS
    ],
)
def test_a_short_run_finds_nothing(target: str) -> None:
    count = SHORT.get(target, 50)
    done = fuzz(target, seconds=float("inf"), conversations=count, seed=1, note=None)
    assert done >= count


def test_what_is_found_is_kept_and_happens_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "reader-1"
    path.write_bytes(b"\x03" + b"\0\0\0\1x" * 3)
    monkeypatch.setattr("fuzz.reader.cut", lambda _: ([], False))
    with pytest.raises(AssertionError):
        replay(path)
    command = [sys.executable, "-m", "fuzz", "--replay", str(path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_corpus_is_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*")) < 300 * 1024
