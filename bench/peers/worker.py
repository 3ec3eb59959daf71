"""One end of a peer, in a process of its own.

::

    python -m bench.peers.worker NAME serve WORK
    python -m bench.peers.worker NAME drive WORK ADDRESS SERVER_PROCESS SECONDS IN_FLIGHT...

``NAME`` is a module of this package with

========================  ==========================================================================
``TITLE``                 what it is, for the table
``serve(ready)``          starts the server, says ``ready(address)``, and serves until it is killed
``drive(address, laps)``  connects, and does ``laps.work``, one lap after the other
``WORKS``                 optional: which of ``KINDS_OF_WORK`` it does; by default the first
``IN_FLIGHT_LIMIT``       optional: the most calls at a time that it can have, or that it is about
``CONFINED``              optional: true if it always listens beyond loopback; it then runs only
                          where there is no network
``LEFT_OUT``              optional: why it cannot run here; empty where it can
``YARDSTICK``             optional: true if it marks a limit, and does not do the work
========================  ==========================================================================

``serve`` and ``drive`` may be coroutine functions: they run on uvloop if the peer's requirements
name it. Both run in the same empty directory, which is also their home and their place for
temporary files, and which is deleted afterwards.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import os
import sys
import time
from array import array
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import distributions
from typing import Any, TextIO

from bench.peers.processes import (
    confined,
    cpu_used,
    family,
    machine_cpu_seconds,
    refuse_listeners_beyond_loopback,
)

KINDS_OF_WORK = ("pings", "activations", "saves")
"""A call sends ``PING_ID`` to the object called ``OBJECT_NAME``; or to one that nobody has called
before; or to one of ``SAVING`` objects, which saves before it answers.
"""
SAVING = 1000
OBJECT_NAME = "ada"
PING_ID = "0123456789abcdef"
WARM_UP = 0.3


@dataclass
class Lap:
    """A time in which ``in_flight`` calls are under way at any moment.

    The peer notes the seconds that each call took.
    """

    in_flight: int
    seconds: float
    latencies: array[float] = field(default_factory=lambda: array("d"))

    def __post_init__(self) -> None:
        self.until = time.perf_counter() + self.seconds


class Laps:
    """The laps that a peer has to make, to be iterated over.

    A short lap that does not count comes before each lap that does.
    """

    def __init__(
        self,
        server: int,
        seconds: float,
        widths: list[int],
        report: Callable[..., None],
        *,
        work: str,
        check: bool,
    ) -> None:
        self.work = work
        self._server = server
        self._seconds = seconds
        self._widths = widths
        self._report = report
        self._check = check

    def __iter__(self) -> Iterator[Lap]:
        for in_flight in self._widths:
            yield Lap(in_flight, WARM_UP)
            self._check_listeners()
            client, server, machine = self._usage()
            started = time.perf_counter()
            lap = Lap(in_flight, self._seconds)
            yield lap
            seconds = time.perf_counter() - started
            client_after, server_after, machine_after = self._usage()
            self._check_listeners()
            client_cpu, server_cpu = used(client, client_after), used(server, server_after)
            calls = len(lap.latencies)
            ordered = sorted(lap.latencies)
            figures = {
                "calls_per_second": calls / seconds,
                "p50": ordered[calls // 2],
                "p99": ordered[calls * 99 // 100],
                "client_cpu": client_cpu / calls,
                "server_cpu": server_cpu / calls,
                "cores_used_by_others": max(0.0, machine_after - machine - client_cpu - server_cpu)
                / seconds,
            }
            self._report(
                in_flight=in_flight,
                **{name: float(f"{figure:.4g}") for name, figure in figures.items()},
            )

    async def run(self, ping: Callable[[], Awaitable[Any]], answer: object) -> None:
        """Keep as many tasks as calls in flight, as asyncio clients do.

        ``ping`` makes one call and returns ``answer``. Each task awaits its answer before it asks
        again.
        """
        if (reply := await ping()) != answer:
            raise RuntimeError(f"the ping was answered with {reply!r}, not {answer!r}")
        for lap in self:
            await asyncio.gather(*(keep_asking(ping, lap) for _ in range(lap.in_flight)))

    def _usage(self) -> tuple[dict[int, float], dict[int, float], float]:
        return cpu_used(family(os.getpid())), cpu_used(family(self._server)), machine_cpu_seconds()

    def _check_listeners(self) -> None:
        if self._check:
            refuse_listeners_beyond_loopback(self._server)
            refuse_listeners_beyond_loopback(os.getpid())


async def keep_asking(ping: Callable[[], Awaitable[Any]], lap: Lap) -> None:
    note, until, clock = lap.latencies.append, lap.until, time.perf_counter
    before = clock()
    while before < until:
        await ping()
        after = clock()
        note(after - before)
        before = after


def used(before: dict[int, float], after: dict[int, float]) -> float:
    return sum(seconds - before.get(process, 0.0) for process, seconds in after.items())


def main(name: str, end: str, work: str, *arguments: str) -> None:
    report = reporter()
    peer = importlib.import_module(f"bench.peers.{name}")
    if getattr(peer, "CONFINED", False) and not confined():
        report(
            title=peer.TITLE,
            left_out="it listens on every interface, and this process has a network:"
            " unshare --net is not to be had",
        )
    elif work not in getattr(peer, "WORKS", KINDS_OF_WORK[:1]):
        report(title=peer.TITLE, left_out=f"it does not do this work: {work}")
    elif why := getattr(peer, "LEFT_OUT", ""):
        report(title=peer.TITLE, left_out=why)
    elif end == "serve":
        packages = {distribution.name: distribution.version for distribution in distributions()}
        about = {
            "title": peer.TITLE,
            "yardstick": getattr(peer, "YARDSTICK", False),
            "packages": packages,
        }
        run(peer.serve, lambda address: report(**about, address=address))
    else:
        address, server, seconds, *widths = arguments
        limit = getattr(peer, "IN_FLIGHT_LIMIT", sys.maxsize)
        in_flight = [int(width) for width in widths if int(width) <= limit]
        laps = Laps(
            int(server),
            float(seconds),
            in_flight,
            report,
            work=work,
            check=not getattr(peer, "CONFINED", False),
        )
        run(peer.drive, address, laps)


def run(end: Callable[..., Any], *arguments: object) -> None:
    if inspect.iscoroutinefunction(end):
        with asyncio.Runner(loop_factory=fastest_loop()) as runner:
            runner.run(end(*arguments))
    else:
        end(*arguments)


def fastest_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def reporter() -> Callable[..., None]:
    """Prints records, one JSON line each, to what is the standard output now.

    What the peer prints goes to standard error from here on.
    """
    output: TextIO = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def report(**record: object) -> None:
        print(json.dumps(record), file=output, flush=True)

    return report


if __name__ == "__main__":
    main(*sys.argv[1:])
