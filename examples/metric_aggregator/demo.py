"""Run three server processes, kill one of them under load, and check that nothing is lost.

Every call carries its own number, and is acknowledged when the state that it made is on disk.
Half-way the demo kills one server with SIGKILL. At the end it reads every object back and compares
it with the acknowledgements that its writers received.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import rio
from examples.metric_aggregator.audit import Verdict, audit
from examples.metric_aggregator.load import Load, Recovery
from examples.metric_aggregator.servers import Server

SERVERS = 3
CLIENTS = 4
METRICS = [f"metric-{number:02}" for number in range(1, 61)]
WRITERS_PER_METRIC = 2
RECOVERY_TIMEOUT = 30.0
"""Seconds that the demo waits for the objects of the killed server to answer again."""


async def demo(seconds: float) -> bool:
    """Run everything, with about ``seconds`` of load.

    Returns whether nothing was lost, nothing was applied twice, and every object answered again.
    """
    with tempfile.TemporaryDirectory(prefix="rio-demo-") as directory:
        storage = f"sqlite:///{directory}/demo.db"
        print(f"starting {SERVERS} server processes on {storage}", flush=True)
        async with (
            start_servers(storage, Path(directory)) as servers,
            open_clients(storage) as senders,
        ):
            load = Load(senders, METRICS, WRITERS_PER_METRIC)
            tasks = f"{len(load.books)} tasks that send to them without a pause:"
            print(f"{len(METRICS)} objects, and {tasks}", flush=True)
            took = await run_load(load, servers, seconds)
            async with rio.Client(storage) as reader:  # a new client, which knows only the storage
                verdict, answered_by = await audit(reader, load.books)
            report(load, verdict, took, answered_by, servers)
            return verdict.good and load.recovery is not None and load.recovery.complete.is_set()


@asynccontextmanager
async def start_servers(storage: str, directory: Path) -> AsyncIterator[list[Server]]:
    """Start the server processes, and end all of them on exit."""
    servers: list[Server] = []
    try:
        while len(servers) < SERVERS:
            servers.append(await Server.start(f"server {len(servers) + 1}", storage, directory))
            print(f"  {servers[-1].name} listens on {servers[-1].address}", flush=True)
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


@asynccontextmanager
async def open_clients(storage: str) -> AsyncIterator[list[rio.Client]]:
    """Open the clients that the writers share."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(rio.Client(storage)) for _ in range(CLIENTS)]


async def run_load(load: Load, servers: list[Server], seconds: float) -> float:
    """Run the load, kill a server half-way, and continue until its objects are back.

    Returns how many seconds that took.
    """
    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        progress = group.create_task(show_progress(load, servers))
        await asyncio.sleep(seconds / 2)
        recovery = await kill_one(load, servers)
        await asyncio.sleep(seconds / 2)
        await wait_for_objects(recovery)
        load.stop()
        progress.cancel()
    return time.monotonic() - began


async def kill_one(load: Load, servers: list[Server]) -> Recovery:
    """Send SIGKILL to the server that holds the most objects."""
    address, _ = Counter(load.tally.homes.values()).most_common(1)[0]
    victim = next(server for server in servers if server.address == address)
    recovery = load.recovery = Recovery(
        {metric for metric, home in load.tally.homes.items() if home == address}
    )
    await victim.kill()
    recovery.note_death()
    say(f"{victim.name} was killed with SIGKILL; {len(recovery.lost)} objects lived there")
    return recovery


async def wait_for_objects(recovery: Recovery) -> None:
    """Wait until every object of the killed server has answered again, or for the timeout."""
    try:
        await asyncio.wait_for(recovery.complete.wait(), RECOVERY_TIMEOUT)
    except TimeoutError:
        away = len(recovery.lost) - len(recovery.back)
        say(f"{away} objects are not back after {RECOVERY_TIMEOUT:g} seconds")


# --- what the demo prints -------------------------------------------------------------------------


async def show_progress(load: Load, servers: list[Server]) -> None:
    """Print the progress: one line that a terminal overwrites, or a line every two seconds."""
    terminal = sys.stdout.isatty()
    interval = 0.25 if terminal else 2.0
    before, began = 0, time.monotonic()
    while True:
        await asyncio.sleep(interval)
        calls = load.tally.calls
        line = progress_line(
            time.monotonic() - began, calls, (calls - before) / interval, servers, load.recovery
        )
        print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", flush=True)
        before = calls


def progress_line(
    seconds: float, calls: int, rate: float, servers: list[Server], recovery: Recovery | None
) -> str:
    alive = sum(server.alive for server in servers)
    back = (
        f", {len(recovery.back)} of {len(recovery.lost)} objects are back"
        if recovery and recovery.server_is_dead
        else ""
    )
    return f"  {seconds:4.1f} s  {calls:>7,} calls  {rate:>6,.0f}/s  {alive} servers{back}"


def say(text: str) -> None:
    """Print a line of its own in place of the progress line."""
    print(f"\r\033[K{text}" if sys.stdout.isatty() else text, flush=True)


def report(
    load: Load, verdict: Verdict, took: float, answered_by: set[str], servers: list[Server]
) -> None:
    say(f"all {len(METRICS)} objects were read back; {len(answered_by)} servers answered\n")
    rows = [*performance(load, took), *correctness(load, verdict)]
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}   {value}")
    print(
        "\nnothing was lost, nothing was applied twice"
        if verdict.good
        else "\nTHIS MUST NOT HAPPEN"
    )
    dead = [server for server in servers if not server.alive]
    if len(dead) > 1:
        print(
            f"\n{len(dead)} servers have ended, and only one was killed:",
            *(server.log_tail() for server in dead),
            sep="\n",
        )


def performance(load: Load, took: float) -> Iterator[tuple[str, str]]:
    latencies = sorted(load.tally.latencies)
    yield "calls acknowledged, each with its state on disk", f"{len(latencies):,}"
    yield "calls per second", f"{len(latencies) / took:,.0f}"
    yield "p50", f"{1000 * quantile(latencies, 0.50):.1f} ms"
    yield "p99", f"{1000 * quantile(latencies, 0.99):.1f} ms"
    if load.recovery is not None and load.recovery.back:
        back = sorted(load.recovery.back.values())
        yield (
            "objects of the killed server answered again",
            f"after {back[0]:.2f} s (the first) to {back[-1]:.2f} s (the last)",
        )


def correctness(load: Load, verdict: Verdict) -> Iterator[tuple[str, str]]:
    errors = ", ".join(f"{count} {name}" for name, count in sorted(load.tally.errors.items()))
    yield "errors that the writers met", errors or "none"
    yield (
        "calls of unknown outcome",
        f"{verdict.unknown}, of which {verdict.unknown_applied} were applied",
    )
    yield "acknowledged increments lost", str(verdict.lost)
    yield "applied twice", str(verdict.twice)
    yield "applied, though reported as not executed", str(verdict.ghosts)
    yield "objects whose count or sum is wrong", str(verdict.wrong_sums)


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds", type=float, default=14.0, help="how long the load lasts (default: 14)"
    )
    try:
        sys.exit(0 if rio.run(demo(parser.parse_args().seconds)) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
