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


UNAWAITED = """
import rio

class Ping(rio.Message[str]): ...

class Thing(rio.ServiceObject):
    @rio.handler
    async def ping(self, message: Ping) -> str:
        return ""

async def use(client: rio.Client) -> None:
    client.send(Thing, "a", Ping())  # not awaited
    client.ref(Thing, "a").ping(Ping())  # not awaited
    client.tell(Thing, "a", Ping())
    await client.send(Thing, "a", Ping())
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mypy_finds_calls_that_nobody_awaits_as_the_page_recommends(tmp_path: Path) -> None:
    if find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    assert '\nenable_error_code = ["unused-awaitable"]\n' in (ROOT / "docs/clients.md").read_text()
    (tmp_path / "use.py").write_text(UNAWAITED)
    command = [sys.executable, "-m", "mypy", "--enable-error-code=unused-awaitable", "use.py"]
    run = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [int(line.split(":")[1]) for line in run.stdout.splitlines() if "error: " in line]
    lines = enumerate(UNAWAITED.splitlines(), 1)
    assert found == [number for number, line in lines if "# not awaited" in line], run.stdout


def test_every_line_that_must_be_refused_is_marked_for_both_checkers() -> None:
    marked = [line for line in (ROOT / FILES[1]).read_text().splitlines() if "ignore #" in line]
    assert len(marked) >= 25
    assert all(" # type: ignore # pyright: ignore # " in line for line in marked)
