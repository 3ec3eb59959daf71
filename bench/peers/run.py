"""The same work on other systems, side by side: ``make bench-peers``.

::

    python -m bench.peers.run ENVIRONMENTS [--peers NAME...]
                              [--rounds 4] [--seconds 1.5] [--in-flight 1 64 1024] [--pinned]
                              [--work pings|activations|saves]

``ENVIRONMENTS`` is a directory with a virtual environment for each file in ``requirements/``. In
each round every peer has its turn: its server and its client are started, make their laps while no
other peer runs, and are killed. The program prints a table. With ``--save`` it also writes
``results.json`` and draws ``throughput.svg``. It knows only what ``worker.py`` prints for a peer.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from bench.peers import chart
from bench.peers.processes import confined, family
from bench.peers.worker import KINDS_OF_WORK

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CORES = sorted(os.sched_getaffinity(0))
PATIENCE = 60.0
"""Seconds that a peer may take beyond its laps, to start or to connect."""


@dataclass
class Peer:
    """One system and its figures: for each number of calls in flight, one record a round."""

    name: str
    title: str = ""
    yardstick: bool = False
    left_out: str = ""
    packages: dict[str, str] = field(default_factory=dict)
    laps: dict[int, list[dict[str, float]]] = field(default_factory=dict)

    def typical(self, in_flight: int) -> dict[str, float] | None:
        """The median of each figure over the quieter half of the rounds.

        In those rounds, other work took the least of the machine. Empty if the peer made no such
        lap.
        """
        rounds = sorted(self.laps.get(in_flight, ()), key=lambda lap: lap["cores_used_by_others"])
        quieter = rounds[: (len(rounds) + 1) // 2]
        return (
            {figure: median(lap[figure] for lap in quieter) for figure in quieter[0]}
            if quieter
            else None
        )


def main() -> None:
    options = parse()
    confine()
    peers = [Peer(name) for name in options.peers]
    for number in range(options.rounds):
        say(f"round {number + 1} of {options.rounds}:")
        for peer in peers:
            if not peer.left_out:
                say(f" {peer.name}")
                measure(peer, options)
        say("\n")
    peers.sort(key=speed, reverse=True)
    print(table(peers))
    print(
        f"\nCPython {platform.python_version()}, {os.cpu_count()} cores,"
        f" of which other work used {load(peers):.1f} meanwhile"
    )
    if options.save:
        (HERE / "results.json").write_text(results(peers, options))
        chart.main()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers.run", description="Measure rio and its peers on the same work."
    )
    known = sorted(path.stem for path in (HERE / "requirements").glob("*.txt"))
    parser.add_argument(
        "environments",
        type=Path,
        help="the directory that holds a virtual environment for each peer",
    )
    parser.add_argument(
        "--peers", nargs="+", choices=known, default=known, metavar="NAME", help=", ".join(known)
    )
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long one lap takes")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 64, 1024], metavar="CALLS")
    parser.add_argument(
        "--work", choices=KINDS_OF_WORK, default=KINDS_OF_WORK[0], help="see worker.py"
    )
    parser.add_argument(
        "--pinned", action="store_true", help="keep each end of a peer on a core of its own"
    )
    parser.add_argument("--save", action="store_true", help="write results.json and throughput.svg")
    options = parser.parse_args()
    options.environments = options.environments.absolute()
    return options


def say(what: str) -> None:
    print(what, end="", file=sys.stderr, flush=True)


# --- one round of one peer ------------------------------------------------------------------------


def measure(peer: Peer, options: argparse.Namespace) -> None:
    with empty_directory() as directory:
        with worker(peer, options, directory, "serve") as server:
            about = json.loads(line_of(server, directory))
            for known in ("title", "yardstick", "packages", "left_out"):
                setattr(peer, known, about.get(known, getattr(peer, known)))
            if peer.left_out:
                return
            laps = [str(options.seconds), *map(str, options.in_flight)]
            with worker(
                peer, options, directory, "drive", about["address"], str(server.pid), *laps
            ) as client:
                timeout = PATIENCE + len(options.in_flight) * (options.seconds + 1)
                output, _ = client.communicate(timeout=timeout)
            if client.returncode != 0:
                raise SystemExit(f"the client of {peer.name} failed:\n{log(directory)}")
        for line in output.splitlines():
            lap = json.loads(line)
            peer.laps.setdefault(lap.pop("in_flight"), []).append(lap)


@contextmanager
def empty_directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="peer-"))
    try:
        yield directory
    finally:
        shutil.rmtree(
            directory, ignore_errors=True
        )  # what a killed server's last helper still writes does not matter


@contextmanager
def worker(
    peer: Peer, options: argparse.Namespace, directory: Path, end: str, *arguments: str
) -> Iterator[subprocess.Popen[str]]:
    """Run one end of the peer. At the end, it and everything that it has started is killed."""
    core = CORES[("drive", "serve").index(end) % len(CORES)]
    python = options.environments / peer.name / "bin" / "python"
    places = {
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)]),
    }
    with (directory / "log").open("a") as errors, on({core} if options.pinned else set(CORES)):
        process = subprocess.Popen(
            [python, "-m", "bench.peers.worker", peer.name, end, options.work, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=directory,
            env=os.environ | places,
        )
    try:
        yield process
    finally:
        for relative in family(process.pid):
            with suppress(ProcessLookupError):
                os.kill(relative, signal.SIGKILL)
        process.communicate()


@contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """Have a process that is started meanwhile, and all that it starts, run on these cores."""
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, CORES)


def line_of(process: subprocess.Popen[str], directory: Path) -> str:
    """The first line that the process prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"it did not start:\n{log(directory)}")
    return line


def log(directory: Path) -> str:
    return (directory / "log").read_text(errors="replace")[-4000:]


# --- the network ----------------------------------------------------------------------------------


def confine() -> None:
    """Enter a network namespace that has nothing but loopback, so that nothing can reach a peer.

    Where that is forbidden, stay.
    """
    alone = ["unshare", "--user", "--map-root-user", "--net"]
    if (
        not confined()
        and shutil.which("unshare")
        and subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    ):
        os.execvp(alone[0], [*alone, *sys.orig_argv])
    if confined():
        raise_loopback()


def raise_loopback() -> None:
    """Do what ``ip link set lo up`` does."""
    SIOCSIFFLAGS, IFF_UP = 0x8914, 1
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))


# --- what it prints -------------------------------------------------------------------------------


def table(peers: list[Peer]) -> str:
    """The table in Markdown: a row for each peer, and no column for a lap that no peer made."""
    columns = [column for column in COLUMNS if any(column[0] in peer.laps for peer in peers)]
    lines = [
        "| | " + " | ".join(f"{width:,} in flight: {head}" for width, head, _ in columns) + " |",
        "| --- |" + " ---: |" * len(columns),
    ]
    for peer in peers:
        laps = [(peer.typical(width), figure) for width, _, figure in columns]
        cells = [figure(lap) if lap is not None else "-" for lap, figure in laps]
        lines.append(
            f"| {peer.title} | "
            + (f"left out: {peer.left_out}" if peer.left_out else " | ".join(cells))
            + " |"
        )
    return "\n".join(lines)


def calls(lap: dict[str, float]) -> str:
    return f"{float(format(lap['calls_per_second'], '.3g')):,.0f}"


def latency(lap: dict[str, float]) -> str:
    return f"{duration(lap['p50'])} / {duration(lap['p99'])}"


def cpu(lap: dict[str, float]) -> str:
    microseconds = (lap["client_cpu"] + lap["server_cpu"]) * 1e6
    return f"{microseconds:,.{0 if microseconds >= 20 else 1}f} µs"


def duration(seconds: float) -> str:
    return (
        f"{seconds * 1e6:.0f} µs"
        if seconds < 1e-3
        else f"{float(format(seconds * 1e3, '.2g')):g} ms"
    )


COLUMNS: list[tuple[int, str, Callable[[dict[str, float]], str]]] = [
    (1, "calls/s", calls),
    (1, "p50 / p99", latency),
    (1, "CPU a call", cpu),
    (64, "calls/s", calls),
    (64, "p50 / p99", latency),
    (64, "CPU a call", cpu),
    (1024, "calls/s", calls),
    (1024, "CPU a call", cpu),
]


def load(peers: list[Peer]) -> float:
    """The cores that other work used in the laps that count, as a rule."""
    laps = [
        lap for peer in peers for width in peer.laps if (lap := peer.typical(width)) is not None
    ]
    return median(lap["cores_used_by_others"] for lap in laps) if laps else 0.0


def speed(peer: Peer) -> float:
    """Calls a second with the number in flight that sorts the table, or else in any lap."""
    typical = [peer.typical(width) for width in (64, *peer.laps)]
    return next((lap["calls_per_second"] for lap in typical if lap is not None), 0.0)


def results(peers: list[Peer], options: argparse.Namespace) -> str:
    """All results as JSON, with one line for each peer."""
    about = {
        "command": shlex.join(["python", "-m", "bench.peers.run", *sys.argv[1:]]),
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "cores_used_by_others": round(load(peers), 2),
        "pinned": options.pinned,
        "work": options.work,
        "network": "a namespace with nothing but lo" if confined() else "loopback",
        "seconds_per_lap": options.seconds,
        "rounds": options.rounds,
    }
    records = [
        asdict(peer) | {"typical": {width: peer.typical(width) for width in peer.laps}}
        for peer in peers
    ]
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    return (
        json.dumps(about, indent=1).removesuffix("\n}") + ',\n "peers": [\n' + lines + "\n ]\n}\n"
    )


if __name__ == "__main__":
    main()
