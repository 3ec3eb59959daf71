"""What holds for every test: the binaries are fresh, the loops are chosen, and nothing is left
running.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rio"
CORE_TESTS = ROOT / "tests" / "core"

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:  # Windows
    new_uvloop = None


def pytest_sessionstart() -> None:
    """A test run never passes on an old binary: it fails before the first test."""
    problem = wrong_installation() or stale_binary(PACKAGE / "_core")
    if problem:
        pytest.exit(f"{problem}. Build first: make build", returncode=pytest.ExitCode.USAGE_ERROR)


def wrong_installation() -> str | None:
    spec = find_spec("rio")
    if spec is None or spec.origin is None:
        return "rio is not installed"
    if PACKAGE.exists() and Path(spec.origin).parent != PACKAGE:
        return f"rio is imported from {Path(spec.origin).parent} and not from this checkout"
    return None


def stale_binary(core: Path) -> str | None:
    """Which compiled module is missing, or older than its sources.

    A .pxd without a .pyx is held against the newest binary.
    """
    binaries = {
        source.stem: source.with_suffix(EXTENSION_SUFFIXES[0]) for source in core.glob("*.pyx")
    }
    for binary in binaries.values():
        if not binary.exists():
            return f"{binary.name} is not built"
    newest = max(binaries.values(), key=modified, default=None)
    for source in [*core.glob("*.pyx"), *core.glob("*.pxd")]:
        binary = binaries.get(source.stem, newest)
        if binary and modified(binary) < modified(source):
            return f"{binary.name} is older than {source.name}"
    return None


def modified(path: Path) -> float:
    return path.stat().st_mtime


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Tests of the core, and those marked ``both_loops``, run on asyncio's own loop and on uvloop;
    all others on asyncio's own.
    """
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if new_uvloop and (CORE_TESTS in item.path.parents or item.get_closest_marker("both_loops")):
        loops["uvloop"] = new_uvloop
    return loops


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test logged may hold half characters, which cannot travel from a worker of
    pytest-xdist.
    """
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def _nothing_left_running(request: pytest.FixtureRequest) -> None:
    """The first fixture of each async test, so that it is torn down after the others."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_leaked_tasks")


@pytest.fixture
async def _no_leaked_tasks() -> AsyncIterator[None]:
    """A test, its fixtures included, waits for every task that it started."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        pytest.fail(f"tasks left running: {sorted(repr(task) for task in leaked)}", pytrace=False)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty database of this test's own."""
    return f"sqlite:///{tmp_path / 'rio.db'}"
