"""The workflows run targets of the Makefile on what is declared, and one job waits for all others.

That they are well formed, pinned and ask for few permissions is checked by ``make check``.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.wheels import steps

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CI = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def jobs(workflow: str) -> dict[str, str]:
    """The text of each job, by its name."""
    _, _, text = workflow.partition("\njobs:\n")
    parts = re.split(r"^  ([\w-]+):$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def listed(text: str, key: str) -> list[str]:
    """The list behind a key, in one line: ``key: [a, b]``."""
    [values] = re.findall(rf"^ +{key}: \[(.*)\]$", text, re.MULTILINE)
    return [value.strip('" ') for value in values.split(",")]


def test_the_required_job_waits_for_each_other_and_is_never_skipped() -> None:
    others = jobs(CI)
    required = others.pop("required")
    assert listed(required, "needs") == list(others)
    assert "if: always()" in required


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_that_exist(path: Path) -> None:
    text = path.read_text()
    ran = re.findall(r"\bmake (?:-\S+ (?:\.\./base )?)*([a-z][\w-]*)", re.sub("#.*", "", text))
    for key in ("target", "what"):
        for values in re.findall(rf"^ +{key}: \[(.*)\]$", text, re.MULTILINE):
            ran += [value.split()[0] for value in values.split(",")]
        ran += re.findall(rf"^ +- {key}: (\S+)$", text, re.MULTILINE)
    assert ran
    assert set(ran) <= TARGETS


def test_ci_tests_the_versions_of_python_that_are_declared_and_built() -> None:
    tested = listed(jobs(CI)["test"], "python")
    declared = {
        classifier.rpartition(" ")[2]
        for classifier in PROJECT["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", classifier)
    }
    built = PROJECT["tool"]["cibuildwheel"]["build"]
    assert declared <= set(tested)
    assert set(re.findall(r"cp3\d+", built)) == {f"cp{each.replace('.', '')}" for each in tested}
    assert PROJECT["project"]["requires-python"] == f">={tested[0]}"


def test_a_release_has_a_machine_for_each_system_and_processor() -> None:
    """cibuildwheel builds for that on which it runs."""
    release = jobs((ROOT / ".github" / "workflows" / "release.yml").read_text())
    machines = {machine for each in steps.PLATFORMS.values() for machine in each.values()}
    assert set(listed(release["wheels"], "os")) == machines


def test_the_files_of_a_release_have_the_time_of_the_commit() -> None:
    """So whoever builds a commit again gets the same files; ``make sdist`` does so by itself."""
    release = jobs((ROOT / ".github" / "workflows" / "release.yml").read_text())
    moment, built = release["wheels"].index("SOURCE_DATE_EPOCH="), "uses: pypa/cibuildwheel"
    assert moment < release["wheels"].index(built)
    assert "SOURCE_DATE_EPOCH" in PROJECT["tool"]["cibuildwheel"]["environment-pass"]


WITHOUT_POSIX = """
import signal, sys
for module in ("fcntl", "grp", "pty", "pwd", "resource", "termios", "tty", "uvloop"):
    sys.modules[module] = None
import pytest
for name in ("SIGCONT", "SIGKILL", "SIGQUIT", "SIGSTOP", "SIGUSR1"):
    delattr(signal, name)
sys.exit(pytest.main(["--collect-only", "-qq", "-n", "0", "-p", "no:cacheprovider", "tests"]))
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_tests_can_be_collected_where_the_modules_of_posix_are_missing() -> None:
    """As on Windows, where ``make quick`` runs those of them that need no servers and processes."""
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_POSIX], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout[-2000:] + run.stderr[-2000:]
