"""What do honest callers notice of somebody who attacks the server?

Two honest clients hold another key than the attacker: one makes a call every two milliseconds,
whose latencies count, and one keeps eight calls in flight, which are counted. Both are measured
before the attack and during it. There are two nodes, and none may be evicted. The variable
``RIO_ATTACK_SECONDS`` says how long each of the two takes; 2 by default.

The attacker makes way for everything else on its core, and the server has a core of its own.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rio
from bench import attack
from bench.figures import Work
from bench.load import percentile
from bench.processes import ServerProcess, node, pinned, resident_bytes
from bench.workload import Ping, Room
from rio.security.keys import encode_secret

SECONDS = float(os.environ.get("RIO_ATTACK_SECONDS", "2"))
GUESSES = 10_000
PAUSE = 0.002
IN_FLIGHT = 8
OBJECTS = 100
P99_GOALS: dict[str, dict[str, float]] = {
    "strangers": {"ratio_at_most": 2.0},
    "wrong-keys": {"at_most": 5.0},  # milliseconds
}
HONEST = rio.Key("honest", "call", b"the secret of honest callers")


class Seen(NamedTuple):
    p99: float
    """Seconds."""
    rate: float
    """Calls a second."""


class Scene(NamedTuple):
    attacked: ServerProcess
    quick: rio.Client
    busy: rio.Client
    ids: list[str]


class Result(NamedTuple):
    alone: Seen
    attacked: Seen
    grown: int
    """Bytes by which the attack has made the server larger."""


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys.toml"
    path.touch(0o600)
    held = (rio.Key("node", "node", b"the secret of the nodes"), HONEST, attack.KEY)
    path.write_text('encryption = "none"\n' + "".join(map(_row, held)))
    return path


def _row(key: rio.Key) -> str:
    secret = encode_secret(key.secret)
    return f'[[keys]]\nid = "{key.id}"\nrole = "{key.role}"\nsecret = "{secret}"\n'


@asynccontextmanager
async def cluster(keys: Path, folder: Path) -> AsyncIterator[Scene]:
    """Two nodes, of which the first has the objects of the honest clients."""
    url = f"sqlite:///{folder / 'rio.db'}"
    security = rio.Security([HONEST], encryption="none")
    ids = [f"honest {number}" for number in range(OBJECTS)]
    with node(url, "--security", str(keys)) as attacked:
        async with rio.Client(url, security=security) as quick:
            for id in ids:
                await quick.send(Room, id, Ping(""))
            with (
                node(url, "--security", str(keys)) as other,
                pinned({os.getpid(): 0, attacked.pid: 1, other.pid: 0}),
            ):
                async with rio.Client(url, security=security) as busy:
                    yield Scene(attacked, quick, busy, ids)
                assert attacked.alive, "it was evicted"
                assert other.alive, "it was evicted"


async def look(scene: Scene, seconds: float) -> Seen:
    """What honest callers see within these seconds."""
    ids = scene.ids
    latencies: list[float] = []
    over = time.perf_counter() + seconds
    calls = 0

    async def keep_busy(number: int) -> None:
        nonlocal calls
        while time.perf_counter() < over:
            await scene.busy.send(Room, ids[(calls + number) % len(ids)], Ping(""))
            calls += 1

    async def ask() -> None:
        while (began := time.perf_counter()) < over:
            await scene.quick.send(Room, ids[0], Ping(""))
            latencies.append(time.perf_counter() - began)
            await asyncio.sleep(PAUSE)

    await asyncio.gather(ask(), *(keep_busy(number) for number in range(IN_FLIGHT)))
    return Seen(percentile(sorted(latencies), 99), calls / seconds)


async def measure(kind: str, keys: Path, folder: Path, limit: int | None) -> Result:
    async with cluster(keys, folder) as scene:
        await look(scene, 0.5)  # all connections are made
        alone = await look(scene, SECONDS)
        before = resident_bytes(scene.attacked.pid)
        options = [] if limit is None else ["--limit", str(limit)]
        with ServerProcess("bench.attack", kind, scene.attacked.address, *options):
            attacked = await look(scene, SECONDS)
            grown = resident_bytes(scene.attacked.pid) - before
        return Result(alone, attacked, grown)


@pytest.mark.parametrize("kind", attack.KINDS)
def test_honest_callers_during_an_attack(
    benchmark: Any, report: Any, runner: asyncio.Runner, tmp_path: Path, keys: Path, kind: str
) -> None:
    results: list[Result] = []
    limit = GUESSES if kind == "wrong-keys" else None

    def once() -> None:
        results.append(runner.run(measure(kind, keys, tmp_path, limit)))

    benchmark.pedantic(Work(once, 1), rounds=1)
    [(alone, attacked, grown)] = results
    p99 = ("before", alone.p99 * 1e3)
    rate = ("before", alone.rate)
    report(f"{kind}: p99", attacked.p99 * 1e3, "ms", beside=p99, **P99_GOALS.get(kind, {}))
    report(f"{kind}: honest calls/s", attacked.rate, "", beside=rate, ratio_at_least=0.8)
    report(f"{kind}: memory of the server", grown / 1e6, "MB more")
