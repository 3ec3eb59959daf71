"""Count the machine instructions of the hot paths: a guard that noise cannot fool.

::

    make bench-instructions              fail if a path takes over 5 % more than its baseline
    make bench-instructions ACCEPT=1     write the counts of this run as the new baselines

The baselines stand in ``bench/instructions.json``. Callgrind counts what a path executes, whatever
else the machine does: the same binary and inputs give the same count but for a few thousandths.
Each path runs N and 2 N times, and the difference divided by N is the count of one pass, without
start-up, warm-up or harness. A count belongs to a build of Python and of the packages under
``rio``, so each minor version has a baseline, which names the build that it was made with.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import msgspec
import uvloop

import rio
from bench.dispatching import Dispatching
from bench.load import activate, closed_loop, in_parallel
from bench.members import full_state
from bench.workload import Bell, PlainPing, Rang, Ring, Room, registry
from rio._core import dispatch
from rio._core.frame import FrameReader
from rio._core.gossip import MemberTable

BASELINES = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.05
MARK = "getsid"
"""A function of the C library that nothing else calls.

Whenever it is entered, Callgrind writes its counts and starts again from zero.
"""

Run = Callable[[int], Awaitable[None]]
"""Run the path so many times."""


# --- the paths ------------------------------------------------------------------------------------


@asynccontextmanager
async def cutting_frames() -> AsyncIterator[Run]:
    data = ((60).to_bytes(4, "big") + bytes(60)) * 64
    reader = FrameReader()

    async def run(count: int) -> None:
        for _ in range(count // 64):
            reader.feed(data)

    yield run


@asynccontextmanager
async def dispatching(is_async: bool) -> AsyncIterator[Run]:
    reads = Dispatching(dispatch, is_async=is_async, requests=64)

    async def run(count: int) -> None:
        for _ in range(count // 64):
            reads.read()

    yield run


@asynccontextmanager
async def a_server(storage: rio.Storage | None = None) -> AsyncIterator[rio.Server]:
    storage = storage or rio.open_storage("memory://")
    provider = rio.LocalClusterProvider(storage.membership, rio.ClusterConfig())
    config = rio.ServerConfig(blocked_after=None)  # here each turn of the loop takes long
    async with rio.Server(registry(), storage=storage, cluster=provider, config=config) as server:
        # Under Callgrind the clock runs fifty times as fast as the program, or faster: what the
        # server does by the clock would count as work of the calls.
        server._catalog.dispatcher.loop_budget = math.inf
        server._ticking.cancel()
        yield server


@asynccontextmanager
async def calling() -> AsyncIterator[Run]:
    """One call from a client's send to its reply, through both halves of the core and no socket."""
    async with a_server() as server:
        await activate(server.client, objects=64)
        for connection in server.client._router.pool.connections:
            connection.step_budget = math.inf

        async def run(count: int) -> None:
            await closed_loop(server.client, count, in_flight=64, objects=64)

        yield run


@asynccontextmanager
async def calling_over_a_socket() -> AsyncIterator[Run]:
    """One call at a time from a client to a server, which share a loop and count together."""
    storage = rio.open_storage("memory://")
    async with a_server(storage), rio.Client(storage, timeout=3600.0) as client:
        await activate(client, objects=64)

        async def run(count: int) -> None:
            await closed_loop(client, count, in_flight=1, objects=64)

        yield run


@asynccontextmanager
async def calling_without_sampling() -> AsyncIterator[Run]:
    """The same in a program that traces, from code that is not sampled. The last of the paths: from
    here on the program traces.
    """
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    trace.set_tracer_provider(TracerProvider())
    unsampled = trace.SpanContext(1, 1, is_remote=False, trace_flags=trace.TraceFlags(0))
    async with calling() as run:

        async def run_unsampled(count: int) -> None:
            with trace.use_span(trace.NonRecordingSpan(unsampled)):
                await run(count)

        yield run_unsampled


@asynccontextmanager
async def activating() -> AsyncIterator[Run]:
    """A call to an object that is not in memory, while the server remembers its placement."""
    ids = itertools.count()
    async with a_server() as server:

        async def activate(_: int) -> None:
            await server.client.send(Room, str(next(ids)), PlainPing(""))

        async def run(count: int) -> None:
            await in_parallel(count, 64, activate)

        yield run


@asynccontextmanager
async def delivering() -> AsyncIterator[Run]:
    """One event for 100 tasks that wait for it, through no socket."""
    async with a_server() as server:
        subscriptions = [server.client.subscribe(Bell, "bell", Rang) for _ in range(100)]
        for subscription in subscriptions:
            await subscription.__aenter__()

        async def read(subscription: rio.Subscription[Rang], count: int) -> None:
            for _ in range(count):
                await anext(subscription)

        async def run(count: int) -> None:
            readers = [
                asyncio.create_task(read(subscription, count // 100))
                for subscription in subscriptions
            ]
            for _ in range(count // 1000):
                await server.client.send(Bell, "bell", Ring(10))
            await asyncio.gather(*readers)

        yield run
        for subscription in subscriptions:
            await subscription.close()


@asynccontextmanager
async def merging() -> AsyncIterator[Run]:
    """A new table merges two states of 64 members; half of the second state is news."""
    first, second = full_state(64, 1).encode(), full_state(64, 2).encode()

    async def run(count: int) -> None:
        for _ in range(count):
            table = MemberTable()
            table.merge(first)
            table.merge(second)

    yield run


PATHS = {
    "cut a frame": (cutting_frames, 6400),
    "dispatch to a def handler": (lambda: dispatching(False), 3200),
    "dispatch to an async def handler": (lambda: dispatching(True), 3200),
    "call and reply": (calling, 3200),
    "call over a socket": (calling_over_a_socket, 640),
    "activate an object": (activating, 3200),
    "deliver an event": (delivering, 10_000),
    "merge 2 x 64 members": (merging, 50),
    "call and reply, not sampled": (calling_without_sampling, 3200),
}
"""Each path's maker, and N."""


# --- under Callgrind ------------------------------------------------------------------------------


def mark() -> None:
    os.getsid(0)


async def run_all() -> None:
    for make, count in PATHS.values():
        async with make() as run:
            await run(count)
            mark()
            await run(count)
            mark()
            await run(2 * count)
            mark()


def counted() -> dict[str, float]:
    """The instructions of one pass of each path."""
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "counts")
        valgrind = [
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            f"--callgrind-out-file={out}",
            f"--dump-before={MARK}",
        ]
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment = {**kept, "PYTHONHASHSEED": "0", "LC_ALL": "C"}
        subprocess.run(
            [*valgrind, sys.executable, "-m", "bench.instructions", "--run"],
            env=environment,
            check=True,
        )
        totals = [total(Path(f"{out}.{part + 1}")) for part in range(3 * len(PATHS))]
    parts = dict(zip(PATHS, zip(totals[1::3], totals[2::3], strict=True), strict=True))
    return {
        name: round((twice - once) / PATHS[name][1], 1) for name, (once, twice) in parts.items()
    }


def total(part: Path) -> int:
    """The count in one part of Callgrind's output."""
    for line in part.read_text().splitlines():
        if line.startswith(("summary:", "totals:")):
            return int(line.split()[1])
    raise RuntimeError(f"{part.name} has no total")


# --- the comparison -------------------------------------------------------------------------------


class Baseline(msgspec.Struct):
    build: str
    instructions: dict[str, float]


def this_build() -> str:
    packages = ", ".join(f"{package} {version(package)}" for package in ("msgspec", "uvloop"))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{python}, {platform.python_compiler()}, {platform.machine()}, {packages}"


def minor_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def read_baselines() -> dict[str, Baseline]:
    return (
        msgspec.json.decode(BASELINES.read_bytes(), type=dict[str, Baseline])
        if BASELINES.exists()
        else {}
    )


def accept(counts: dict[str, float]) -> None:
    baselines = {**read_baselines(), minor_version(): Baseline(this_build(), counts)}
    BASELINES.write_bytes(
        msgspec.json.format(msgspec.json.encode(dict(sorted(baselines.items()))), indent=2) + b"\n"
    )


def compare(counts: dict[str, float], expected: dict[str, float]) -> bool:
    """Print counts and baselines. Returns whether every path is within its tolerance."""
    print(f"{'instructions':34} {'now':>10} {'baseline':>10}")
    good = True
    for name, count in counts.items():
        known = expected.get(name)
        change = count / known - 1 if known else 0.0
        verdict = "" if known else "not in the baseline"
        if change > TOLERANCE:
            good, verdict = False, "MORE"
        elif change < -TOLERANCE:
            verdict = "less: accept it, so that it is held"
        print(f"{name:34} {count:10,.0f} {known or 0:10,.0f} {change:+8.1%}  {verdict}".rstrip())
    return good


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--accept",
        action="store_true",
        help="write what is counted as the new baseline of this Python",
    )
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        gc.disable()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run_all())
        return 0
    if shutil.which("valgrind") is None:
        print(
            "counting instructions needs valgrind: apt-get or dnf install valgrind",
            file=sys.stderr,
        )
        return 2
    counts = counted()
    baseline = read_baselines().get(minor_version())
    if options.accept:
        compare(counts, baseline.instructions if baseline else {})
        accept(counts)
        print(f"accepted into {BASELINES.name}: {this_build()}")
        return 0
    if baseline is None or baseline.build != this_build():
        made_by = (
            "there is none for this Python"
            if baseline is None
            else f"it was made by another build, {baseline.build}"
        )
        print(f"no baseline to compare with: {made_by}; this is {this_build()}.", file=sys.stderr)
        print(
            "Count the commit that you compare with on this machine first:"
            " make bench-instructions ACCEPT=1",
            file=sys.stderr,
        )
        return 2
    if compare(counts, baseline.instructions):
        return 0
    print(
        f"more than {TOLERANCE:.0%} above the baseline;"
        " if that is meant, make bench-instructions ACCEPT=1 and commit",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
