"""What holds for every test: fresh binaries, the right event loop, and nothing left running."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import re
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from rio.testing import VirtualTimeLoop
from tests.effort import QUICK, examples
from tests.machine import give_way

ROOT = Path(__file__).parents[1]
EAGER = os.environ.get("RIO_EAGER") == "1"
"""Whether the tests run under the eager task factory, as ``make test-eager`` has it."""
PACKAGE = ROOT / "src" / "rio"
TESTS = ROOT / "tests"
CORE_TESTS = TESTS / "core"

STARTS_SERVERS = {"postgres_server", "redis_server"}
"""Fixtures that start PostgreSQL or Valkey."""
SERVER = re.compile(r"(postgres|redis)(_\w+)?|(Postgres|Redis)Lane")
"""How parameters of tests call them."""

CLUSTERS = (TESTS / "cluster" / "processes", TESTS / "cli")

SLOW_TIMEOUT = 300.0
"""Seconds for a test that is marked ``slow``: a second of it is ten on a busy machine."""

STARTS_PROCESSES = {TESTS / name for name in ("cli", "cluster/processes", "docs", "examples")}
"""Folders whose tests start commands and servers of ``rio``."""

# no deadline for an example, and no check of how long it takes to draw: both would measure the
# machine
settings.register_profile(
    "rio",
    max_examples=examples(100),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("rio")

try:
    from uvloop import new_event_loop as new_uvloop
except ImportError:  # Windows
    new_uvloop = None


def pytest_sessionstart() -> None:
    """Refuse to test an old binary."""
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
    """Name a compiled module that is missing, or older than its sources.

    A .pxd without a .pyx is compared with the newest binary.
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


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """``-n auto``: a worker more than there are cores, since the tests of clusters mostly wait.

    ``make quick`` leaves those out. With ``-s`` there is no worker, since its output would be lost.
    """
    if config.option.capture == "no":
        return 0
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cores if QUICK else cores + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    from tests.distribution import Distribution  # here, because wheels are tested without xdist

    return Distribution(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what ``make quick`` leaves out, give what takes seconds of a processor more time, and
    let what takes longest begin first.
    """
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if STARTS_SERVERS.intersection(fixtures) or names_a_server(item):
            item.add_marker("servers")
        if "make_cluster" in fixtures:
            item.add_marker("processes")
        if STARTS_PROCESSES.intersection(item.path.parents):
            item.add_marker("processes")
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT))
    items.sort(key=turn)


def names_a_server(item: pytest.Item) -> bool:
    """Whether a parameter of the test says which server a fixture of it starts."""
    callspec = getattr(item, "callspec", None)
    values = [] if callspec is None else callspec.params.values()
    return any(isinstance(value, str) and SERVER.fullmatch(value) for value in values)


def turn(item: pytest.Item) -> int:
    """When a test has its turn: clusters of processes, then what is slow, then all others."""
    if has_cluster(item):
        return 0
    return 1 if item.get_closest_marker("slow") else 2


def has_cluster(item: pytest.Item) -> bool:
    return any(folder in item.path.parents for folder in CLUSTERS)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Have a worker that runs no clusters of processes, or has run them all, give way to them."""
    if hasattr(item.config, "workerinput") and not has_cluster(item):
        give_way()


def pytest_collection_finish() -> None:
    """Have the garbage collector of the tests ignore the thousands of tests themselves."""
    gc.collect()
    gc.freeze()


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run tests of the core, and those marked ``both_loops``, on asyncio's own loop and on uvloop.

    Those marked ``virtual_time`` run by a virtual clock, and all others on asyncio's own loop.
    """
    virtual = item.get_closest_marker("virtual_time")
    if virtual and virtual.args != (False,):
        return {"virtual": new_virtual_loop}
    loops: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.new_event_loop}
    if new_uvloop and (CORE_TESTS in item.path.parents or item.get_closest_marker("both_loops")):
        loops["uvloop"] = new_uvloop
    if EAGER:
        return {"eager": new_eager_loop}
    return loops


def new_virtual_loop() -> asyncio.AbstractEventLoop:
    """An event loop whose clock the machine does not move, however busy it is."""
    loop = VirtualTimeLoop(0)
    if EAGER:
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
    return loop


def new_eager_loop() -> asyncio.AbstractEventLoop:
    """An event loop on which tasks run their first step before ``create_task`` returns. It is never
    one of uvloop, which cannot begin a program so.
    """
    loop = asyncio.new_event_loop()
    loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]  # from 3.12 on
    return loop


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Replace half characters in what a test logged: a worker of pytest-xdist cannot send them."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture(autouse=True)
def _nothing_left_running(request: pytest.FixtureRequest) -> None:
    """Set the watch over tasks up first, so that it is torn down after all other fixtures."""
    if inspect.iscoroutinefunction(request.function):
        request.getfixturevalue("_no_leaked_tasks")


@pytest.fixture
async def _no_leaked_tasks() -> AsyncIterator[None]:
    """Fail a test that does not wait for every task that it or its fixtures started."""
    before = asyncio.all_tasks()
    yield
    leaked = asyncio.all_tasks() - before - {asyncio.current_task()}
    if leaked:
        pytest.fail(f"tasks left running: {sorted(repr(task) for task in leaked)}", pytrace=False)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an empty database for this test."""
    return f"sqlite:///{tmp_path / 'rio.db'}"
