"""What holds for every benchmark: fresh binaries, saved figures, and a closing table with targets.

``--full`` adds the benchmarks that take long. ``--figures FILE`` saves the closing table as JSON.
"""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from bench.figures import Figure, save, table
from bench.processes import ServerProcess, echo, node
from tests import conftest as tests

FIGURES = pytest.StashKey[list[Figure]]()
COLUMNS = ["median", "iqr", "rounds"]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="run the benchmarks that take long, too")
    parser.addoption(
        "--figures", type=Path, help="save the closing table's figures as JSON to this file"
    )


@pytest.hookimpl(tryfirst=True)  # before pytest-benchmark reads its options
def pytest_configure(config: pytest.Config) -> None:
    config.stash[FIGURES] = []
    config.addinivalue_line(
        "markers", "full: takes long, or shows more of the same: runs with --full"
    )
    config.addinivalue_line(
        "filterwarnings", "default::pytest_benchmark.logger.PytestBenchmarkWarning"
    )
    if config.option.benchmark_columns is None:
        config.option.benchmark_columns = COLUMNS


def pytest_sessionstart() -> None:
    """Refuse to measure an old binary."""
    if sys.platform != "linux":
        pytest.exit(
            "the benchmarks read what Linux says of processes, and run there only",
            returncode=pytest.ExitCode.USAGE_ERROR,
        )
    tests.pytest_sessionstart()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    full = config.option.full
    left_out = [item for item in items if item.get_closest_marker("full") and not full]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
    for item in items:
        item.add_marker(pytest.mark.timeout(900 if full else 120))
        item.add_marker(pytest.mark.benchmark(group=question_of(item)))


def question_of(item: pytest.Item) -> str:
    """The subject of the benchmark's file."""
    return item.path.stem.removeprefix("test_").replace("_", " ")


@pytest.hookimpl(trylast=True)  # after pytest-benchmark's tables
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    figures = config.stash[FIGURES]
    if figures:
        terminalreporter.section("figures")
        for line in table(figures):
            terminalreporter.write_line(line)
    if figures and config.option.figures is not None:
        save(figures, config.option.figures)


# --- fixtures -------------------------------------------------------------------------------------


@pytest.fixture
def report(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., None]:
    """Put a line into the closing table and into the JSON.

    ``report(what, value, unit, beside=("name", value), at_most=...)``
    """
    question = question_of(request.node)

    def report(
        what: str, value: float, unit: str, beside: tuple[str, float] = ("", 0.0), **limits: float
    ) -> None:
        figure = Figure(question, what, value, unit, beside[0], beside[1], **limits)
        request.config.stash[FIGURES].append(figure)
        benchmark.extra_info[what] = f"{figure.value:.6g} {unit}" + (
            f", {figure.ratio:.3f} x {figure.beside}" if figure.ratio else ""
        )

    return report


@pytest.fixture(scope="session", autouse=True)
def _many_files() -> None:
    """Allow as many connections as this user may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 20), hard))


@pytest.fixture(autouse=True)
def _a_heap_as_small_as_a_client_has() -> Iterator[None]:
    """Collect garbage as in any process, but do not look at the objects of pytest."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """The loop of a client."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        yield runner


@pytest.fixture(scope="module")
def storage_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An SQLite file for the servers of one module."""
    return f"sqlite:///{tmp_path_factory.mktemp('bench') / 'rio.db'}"


@pytest.fixture(scope="module")
def server(storage_url: str) -> Iterator[ServerProcess]:
    with node(storage_url) as process:
        yield process


@pytest.fixture(scope="module")
def echo_server() -> Iterator[ServerProcess]:
    with echo() as process:
        yield process
