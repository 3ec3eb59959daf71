"""Type checkers infer what our API promises, and refuse what it forbids."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ["tests/typing/accepted.py", "tests/typing/refused.py"]
CHECKERS = {
    "mypy": ["--strict", "--follow-imports=silent", "--no-error-summary"],
    "pyright": ["--pythonpath", sys.executable],
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("checker", CHECKERS)
def test_a_checker_accepts_what_is_right_and_refuses_exactly_the_marked_lines(checker: str) -> None:
    """Marked lines are ignored, and an ignore that is not needed is an error."""
    if find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    command = [sys.executable, "-m", checker, *CHECKERS[checker], *FILES]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": "src"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_line_that_must_be_refused_is_marked_for_both_checkers() -> None:
    marked = [line for line in (ROOT / FILES[1]).read_text().splitlines() if "ignore #" in line]
    assert len(marked) >= 25
    assert all(" # type: ignore # pyright: ignore # " in line for line in marked)
