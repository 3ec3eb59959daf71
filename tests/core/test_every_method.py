"""No value that Python code hands to the compiled core ends the process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.every_method import NOTE_SIZE

ENOUGH = 20
"""Crashes after which the others are not looked for."""


@pytest.mark.slow
def test_no_call_with_wrong_values_ends_the_process(tmp_path: Path) -> None:
    note = tmp_path / "note"
    note.write_bytes(bytes(NOTE_SIZE))
    crashes: list[str] = []
    start = 0
    while len(crashes) < ENOUGH:
        command = [sys.executable, "-m", "tests.core.every_method", str(note), str(start)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 0:
            break
        number, name = note.read_bytes().split(b"\n")[0].decode().split(" ", 1)
        crashes.append(f"{name}: exit code {done.returncode}\n{done.stderr[-1500:]}")
        start = int(number) + 1
    assert not crashes, "\n".join(crashes)
