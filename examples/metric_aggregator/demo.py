"""A cluster of three server processes, used by many, and one of them killed: what is lost?

Every call carries a number of its own and is acknowledged when the state that it made is on disk. One server gets SIGKILL half-way. In the
end every object is read back and held against what the clients were told.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import rio
from examples.metric_aggregator.audit import Verdict, audit
from examples.metric_aggregator.load import Load, Recovery
from examples.metric_aggregator.servers import Server

SERVERS = 3
CLIENTS = 4
METRICS = [f"metric-{number:02}" for number in range(60)]
WRITERS_PER_METRIC = 2
RECOVERY_TIMEOUT = 30.0
"""Seconds after which the demo does not wait any longer for objects to come back."""


async def demo(seconds: float) -> bool:
    """Run everything for about ``seconds`` of load. Returns whether nothing was lost and nothing was applied twice."""
    with tempfile.TemporaryDirectory(prefix="rio-demo-") as directory:
        storage = f"sqlite:///{directory}/demo.db"
        print(f"starting {SERVERS} server processes on {storage}")
        async with running(storage, Path(directory)) as servers, clients(storage) as senders:
            for server in servers:
                print(f"  {server.name} listens on {server.address}")
            print(f"{len(METRICS)} objects, {len(METRICS) * WRITERS_PER_METRIC} tasks of {CLIENTS} clients that send without a pause:")
            load = Load(senders, METRICS, WRITERS_PER_METRIC)
            began = time.monotonic()
            await drive(load, servers, seconds)
            took = time.monotonic() - began
            verdict, answered_by = await read_back(storage, load)
            report(load, verdict, took, answered_by, servers)
            return verdict.good and returned(load)


@asynccontextmanager
async def running(storage: str, directory: Path) -> AsyncIterator[list[Server]]:
    """The server processes; all are gone in the end."""
    servers = []
    try:
        for number in range(1, SERVERS + 1):
            servers.append(await Server.start(f"server {number}", storage, directory))
        yield servers
    finally:
        await asyncio.gather(*(server.stop() for server in servers))


@asynccontextmanager
async def clients(storage: str) -> AsyncIterator[list[rio.Client]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(rio.Client(storage)) for _ in range(CLIENTS)]


async def drive(load: Load, servers: list[Server], seconds: float) -> None:
    """Have the load run; kill a server half-way; go on until its objects are back."""
    async with asyncio.TaskGroup() as group:
        group.create_task(load.run())
        progress = group.create_task(show_progress(load, servers))
        await asyncio.sleep(seconds / 2)
        recovery = await kill_one(load, servers)
        await asyncio.sleep(seconds / 2)
        try:
            await asyncio.wait_for(recovery.complete.wait(), RECOVERY_TIMEOUT)
        except TimeoutError:
            say(f"{len(recovery.lost) - len(recovery.back)} objects have not come back within {RECOVERY_TIMEOUT:g} seconds")
        load.stop()
        progress.cancel()


async def kill_one(load: Load, servers: list[Server]) -> Recovery:
    """SIGKILL for the server that holds the most objects."""
    address, _ = Counter(load.ledger.homes.values()).most_common(1)[0]
    victim = next(server for server in servers if server.address == address)
    await victim.kill()
    load.recovery = Recovery({metric for metric, home in load.ledger.homes.items() if home == address})
    say(f"{victim.name} was killed with SIGKILL; {len(load.recovery.lost)} objects lived there")
    return load.recovery


async def read_back(storage: str, load: Load) -> tuple[Verdict, set[str]]:
    """Read every object with a new client, which knows nothing but the storage."""
    async with rio.Client(storage) as client:
        return await audit(client, METRICS, load.ledger)


def returned(load: Load) -> bool:
    return load.recovery is not None and load.recovery.complete.is_set()


# --- what is seen -----------------------------------------------------------------------------------------------------------------------


async def show_progress(load: Load, servers: list[Server]) -> None:
    """One line that is written over on a terminal; elsewhere a new line now and then."""
    interval = 0.25 if sys.stdout.isatty() else 2.0
    before, began = 0, time.monotonic()
    while True:
        await asyncio.sleep(interval)
        calls = load.ledger.calls
        alive = sum(server.alive for server in servers)
        line = f"  {time.monotonic() - began:4.1f} s  {calls:>7,} calls  {(calls - before) / interval:>6,.0f}/s  {alive} servers{coming_back(load)}"
        print(f"\r\033[K{line}" if sys.stdout.isatty() else line, end="" if sys.stdout.isatty() else "\n", flush=True)
        before = calls


def coming_back(load: Load) -> str:
    recovery = load.recovery
    return "" if recovery is None else f"  {len(recovery.back)} of {len(recovery.lost)} objects of the killed server answer again"


def say(text: str) -> None:
    """A line of its own, that the progress line does not write over."""
    print(f"\r\033[K{text}" if sys.stdout.isatty() else text, flush=True)


def report(load: Load, verdict: Verdict, took: float, answered_by: set[str], servers: list[Server]) -> None:
    say(f"all {len(METRICS)} objects were read back, from {len(answered_by)} servers:\n")
    rows = list(figures(load, verdict, took))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    died = [server for server in servers if not server.alive]
    for server in died[1:] if len(died) > 1 else []:
        print(f"\n{server.name} ended by itself:\n{server.log.read_text()[-1000:]}")
    print("\nnothing was lost and nothing was applied twice" if verdict.good else "\nTHIS MUST NOT HAPPEN")


def figures(load: Load, verdict: Verdict, took: float) -> Iterable[tuple[str, str]]:
    ledger = load.ledger
    latencies = sorted(ledger.latencies)
    yield "calls acknowledged", f"{ledger.calls:,}"
    yield "calls per second", f"{ledger.calls / took:,.0f}"
    yield "p50", f"{1000 * quantile(latencies, 0.50):.1f} ms"
    yield "p99", f"{1000 * quantile(latencies, 0.99):.1f} ms"
    if load.recovery is not None and load.recovery.back:
        back = sorted(load.recovery.back.values())
        yield "objects of the killed server answered again", f"after {back[0]:.2f} s (the first) to {back[-1]:.2f} s (the last)"
    unknown = sum(len(numbers) for numbers in ledger.unknown.values())
    yield "outcome unknown (the connection broke)", f"{unknown}, of which {verdict.unknown_applied} were applied"
    if ledger.errors:
        yield "errors that clients saw", ", ".join(f"{count} {name}" for name, count in sorted(ledger.errors.items()))
    yield "acknowledged increments lost", str(verdict.lost)
    yield "applied twice", str(verdict.twice)
    yield "applied although reported as not run", str(verdict.ghosts)
    yield "objects whose sum does not add up", str(verdict.wrong_sums)


def quantile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=14.0, help="how long the load lasts (default: 14)")
    sys.exit(0 if rio.run(demo(parser.parse_args().seconds)) else 1)
