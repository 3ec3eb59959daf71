"""``make chaos``: break a cluster under load all the time, and count what callers noticed.

It runs for ``MINUTES`` in rounds, each on an empty storage and with the next ``PRESET``. In the
first rounds it breaks one thing at a time, which gives the figures for failover. Then, for as many
rounds, it breaks two at a time, and the storage is away now and then; and so on. Among the faults
are storages that go back in time; what was written in the lost time may be gone. ``SEED`` decides
what breaks and when. What a fault meets depends on the moment, so run a seed that found something
several times.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter as Multiset
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from itertools import count, cycle, islice
from pathlib import Path

import rio
from rio.cluster.config import ClusterConfig
from rio.cluster.settings import change_settings
from rio.errors import RioError
from tests.cluster.processes.harness import PATIENCE, Cluster, Load, Node, until
from tests.cluster.processes.history import Finding
from tests.cluster.processes.objects import KILL_AT, POINTS
from tests.cluster.processes.restores import Loss, fail_over, lose_placements, replace_file, restore
from tests.cluster.processes.stores import STORAGES, Store, file_in, place_on, serving
from tests.servers import Server

PRESETS = ("local", "fast", "strict")
FAULTS = (
    "kill",
    "restart",
    "drain",
    "pause",
    "kill in the middle",
    "versions rolled",
    "settings changed",
)
TIME_TRAVELS = (
    "database restored",
    "file replaced",
    "placements lost",
    "standby promoted",
    "late standby promoted",
)
"""What makes the storage go back in time. SQLite has no standby, and the others have no file."""
SHORT_LIVES = {"RIO_IDLE_AFTER": "1"}
"""Objects leave the memory all the time."""
NODES = 4
LONGEST_ROUND = 60.0
EVICTED = 70
PAUSES = (0.1, 0.4, 0.97, 1.03, 1.27, 1.33, 2.0, 3.0)
"""In units of ``lease_local``; ``lease_evict`` is 1.3 of them."""
BACK = (0.1, 0.5, 1.0, 2.0)
"""How far the storage goes back in time, in units of ``lease_local``."""
OUTAGES = (0.2, 0.8, 1.2, 2.0)
"""In units of ``lease_local``."""


class Settings:
    """The settings of a run, from the environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.minutes = float(environ.get("MINUTES", "5"))
        self.seed = int(environ.get("SEED") or random.SystemRandom().randrange(1_000_000))
        self.storage = _one_of(STORAGES, environ.get("STORAGE", "sqlite"))
        self.presets = [
            _one_of(PRESETS, name) for name in environ.get("PRESET", ",".join(PRESETS)).split(",")
        ]
        known = faults_of(self.storage)
        self.faults = [
            _one_of(known, name) for name in environ.get("FAULTS", ",".join(known)).split(",")
        ]

    @property
    def all_faults(self) -> bool:
        return self.faults == list(faults_of(self.storage))

    def __str__(self) -> str:
        all_faults = "" if self.all_faults else f" FAULTS='{','.join(self.faults)}'"
        run = f"SEED={self.seed} STORAGE={self.storage} MINUTES={self.minutes:g}"
        return f"{run} PRESET={','.join(self.presets)}{all_faults}"


def faults_of(storage: str) -> Sequence[str]:
    """What can be broken on a storage."""
    other = "standby" if storage == "sqlite" else "file"
    return [name for name in (*FAULTS, *TIME_TRAVELS) if other not in name]


def _one_of(known: Sequence[str], name: str) -> str:
    if name not in known:
        raise SystemExit(f"chaos: there is no {name!r}: choose from {', '.join(known)}")
    return name


@dataclass
class Figures:
    """What has been seen so far."""

    faults: Multiset[str] = field(default_factory=Multiset)
    outcomes: Multiset[str] = field(default_factory=Multiset)
    acknowledged_writes: int = 0
    findings: list[Finding] = field(default_factory=list)
    failover: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By preset: seconds from the SIGKILL of a server until one of its objects answered.

    Counted only while nothing else was broken.
    """
    kills: Multiset[str] = field(default_factory=Multiset)
    """By preset: the kills behind these figures."""
    restart: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """The same, where a new server took the address over at once."""
    drained: list[float] = field(default_factory=list)
    """Seconds of the slowest call while a server drained and nothing else was broken."""
    failed_in_drains: int = 0
    """Calls that failed while a server drained."""
    wrongly_evicted: int = 0
    """Members that were declared dead although the run had done nothing to them."""

    def of_kind(self, *kinds: str) -> int:
        return sum(finding.kind in kinds for finding in self.findings)


# --- one round ------------------------------------------------------------------------------------


class Round:
    """One cluster, its callers, and what is done to it.

    ``lanes``: how many things are broken at a time.
    """

    def __init__(
        self,
        cluster: Cluster,
        load: Load,
        figures: Figures,
        *,
        preset: str,
        lanes: int,
        faults: Sequence[str],
    ) -> None:
        self._cluster = cluster
        self._load = load
        self._figures = figures
        self._preset = preset
        self._lanes = lanes
        self._acts: dict[str, Callable[[random.Random], Awaitable[None]]] = {
            "kill": self._kill,
            "restart": self._restart,
            "drain": self._drain,
            "pause": self._pause,
            "kill in the middle": self._kill_in_the_middle,
            "versions rolled": self._roll,
            "settings changed": self._change_settings,
            "database restored": self._restore,
            "file replaced": self._replace_file,
            "placements lost": self._lose_placements,
            "standby promoted": partial(self._fail_over, late=False),
            "late standby promoted": partial(self._fail_over, late=True),
        }
        # a change waits for every member, so nothing else is broken meanwhile
        self._faults = [name for name in faults if lanes == 1 or name != "settings changed"]
        self._touched: set[Node] = set()
        """Servers to which something was done, or is being done."""
        self.losses: list[Loss] = []
        """When the storage went back in time."""
        self._storage_is_whole = asyncio.Lock()
        self._under_way = 0
        self._calm = lanes == 1

    async def run(self, seconds: float, seed: str) -> None:
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for lane in range(self._lanes):
                tasks.create_task(
                    self._keep_breaking(random.Random(f"{seed}/{lane}"), began + seconds)
                )
            if self._lanes > 1:
                tasks.create_task(
                    self._keep_taking_the_storage_away(
                        random.Random(f"{seed}/storage"), began + seconds
                    )
                )
        await self._bring_up_to(NODES)
        await self._load.more(50)

    async def _keep_breaking(self, rng: random.Random, end: float) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(rng.uniform(0.0, 1.0))
            await self._bring_up_to(NODES - self._under_way)
            name = rng.choice(self._faults)
            async with self._fault(name):
                await self._acts[name](rng)

    @asynccontextmanager
    async def _fault(self, name: str) -> AsyncIterator[None]:
        self._figures.faults[name] += 1
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    # --- servers ----------------------------------------------------------------------------------

    def _serving(self) -> list[Node]:
        return [
            node
            for node in self._cluster.nodes
            if node.alive and node.generation and node not in self._touched
        ]

    def _take(self, rng: random.Random) -> Node:
        node = rng.choice(self._serving())
        self._touched.add(node)
        return node

    async def _bring_up_to(self, number: int) -> None:
        """Start the servers that are missing: a busy machine may have had a server evicted."""
        while len(self._serving()) < number:
            await self._start()

    async def _start(
        self, address: str = "127.0.0.1:0", environ: Mapping[str, str] | None = None
    ) -> Node:
        """Start a server, again and again while the storage is away, as a supervisor does."""
        while True:
            node = await self._cluster.launch(
                address=address, environ={**SHORT_LIVES, **(environ or {})}
            )
            if environ:
                self._touched.add(node)
            if await node.serves():
                return node
            await node.kill()
            self._touched.add(node)
            address = "127.0.0.1:0"

    def wrongly_evicted(self) -> int:
        return sum(
            node.process.returncode == EVICTED
            for node in self._cluster.nodes
            if node not in self._touched
        )

    async def _ended(self, node: Node, *expected: int) -> None:
        code = await node.ended()
        if code not in expected:
            text = (
                f"member {node.generation} ended with {code} and not {expected}: {node.output[-5:]}"
            )
            self._figures.findings.append(Finding("unexpected", text))

    # --- what is done to them ---------------------------------------------------------------------

    async def _kill(self, rng: random.Random) -> None:
        victim = self._take(rng)
        ids = await self._ids_at(victim)
        await victim.kill()
        answered, _ = await asyncio.gather(self._answer(ids, victim.killed_at), self._start())
        self._figures.failover[self._preset] += answered
        self._figures.kills[self._preset] += self._calm

    async def _restart(self, rng: random.Random) -> None:
        victim = self._take(rng)
        ids = await self._ids_at(victim)
        await victim.kill()
        await self._start(victim.address)
        self._figures.restart[self._preset] += await self._answer(ids, victim.killed_at)

    async def _ids_at(self, node: Node) -> list[str]:
        """The counters that a fault may wait for; none where something else is broken as well."""
        owners = await self._cluster.owners(self._load.counters) if self._calm else {}
        return [id for id, process in owners.items() if process == node.process.pid]

    async def _answer(self, ids: Iterable[str], since: float) -> list[float]:
        """Wait until each counter answers; seconds since ``since``."""

        async def answered(id: str) -> float:
            try:
                await self._cluster.value(id)
            except RioError as error:
                self._figures.findings.append(
                    Finding("unexpected", f"Counter/{id} does not answer: {error}")
                )
            return time.monotonic() - since

        return await asyncio.gather(*map(answered, ids))

    async def _drain(self, rng: random.Random) -> None:
        leaver, replaced_first = self._take(rng), rng.random() < 0.5
        if replaced_first:
            await self._start()
        began, failed = time.monotonic(), len(self._load.errors)
        leaver.terminate()
        await self._ended(leaver, 0, EVICTED)
        if self._calm:
            since = [
                call.ended - call.began
                for call in self._load.calls
                if call.began >= began and call.outcome == "acknowledged"
            ]
            self._figures.drained.append(max(since, default=0.0))
            self._figures.failed_in_drains += len(self._load.errors) - failed
        if not replaced_first:
            await self._start()

    async def _pause(self, rng: random.Random) -> None:
        node = self._take(rng)
        await self._cluster.pause(node, rng.choice(PAUSES) * self._cluster.config.lease_local)
        if node.alive:
            self._touched.discard(node)
        else:
            await self._ended(node, EVICTED)
            await self._start()

    async def _roll(self, rng: random.Random) -> None:
        """Replace servers one by one by servers of the other version: all of them, or some."""
        versions = {"older": "newer", "newer": "older"}
        self._cluster.version = versions[self._cluster.version]
        for _ in range(rng.randint(1, NODES)):
            await self._start()
            leaver = self._take(rng)
            leaver.terminate()
            await self._ended(leaver, 0, EVICTED)

    async def _change_settings(self, rng: random.Random) -> None:
        """Have the cluster run with another preset for a while."""
        others = [preset for preset in PRESETS if preset != self._preset]
        async with self._storage_is_whole:
            await self._change_to(rng.choice(others))
            await asyncio.sleep(rng.uniform(0.0, 2.0))
            await self._change_to(self._preset)

    async def _change_to(self, preset: str) -> None:
        self._cluster.use(preset)
        async with rio.open_storage(self._cluster.url).membership as membership:
            await change_settings(membership, self._cluster.config, timeout=PATIENCE)

    async def _kill_in_the_middle(self, rng: random.Random) -> None:
        """Kill a server as soon as one of its objects comes to some point.

        It gets objects because another server drains meanwhile.
        """
        victim = await self._start(environ={KILL_AT: rng.choice(POINTS)})
        await until(
            lambda: not victim.alive or self._cluster.client.members.find(victim.generation),
            "the client to hear of it",
        )
        await self._bring_up_to(1)  # the storage may have gone back meanwhile
        leaver = self._take(rng)
        leaver.terminate()
        await self._ended(leaver, 0, EVICTED)
        end = asyncio.create_task(victim.ended())
        await asyncio.wait((end,), timeout=2.0)
        victim.terminate()
        await end
        await self._ended(victim, -signal.SIGKILL, 0, EVICTED)
        await self._start()

    # --- what is done to their storage ------------------------------------------------------------

    async def _restore(self, rng: random.Random) -> None:
        await self._go_back(partial(restore, self._cluster.store, self._a_while(rng)))

    async def _replace_file(self, rng: random.Random) -> None:
        await self._go_back(partial(replace_file, self._cluster.store, self._a_while(rng)))

    async def _lose_placements(self, rng: random.Random) -> None:
        await self._go_back(partial(lose_placements, self._cluster.store))

    async def _fail_over(self, rng: random.Random, *, late: bool) -> None:
        server = self._cluster.store.server
        assert server is not None
        await self._go_back(partial(fail_over, server, self._a_while(rng), late=late))

    def _a_while(self, rng: random.Random) -> Callable[[], Awaitable[None]]:
        """For how long what is written will be lost."""
        return partial(asyncio.sleep, rng.choice(BACK) * self._cluster.config.lease_local)

    async def _go_back(self, travel: Callable[[], Awaitable[Loss]]) -> None:
        """Have the storage go back in time, and wait until all servers have noticed. Those whose
        row is lost, or older than they know, are evicted.
        """
        async with self._storage_is_whole:
            loss = await travel()
            self.losses.append(loss)
        config = self._cluster.config
        await asyncio.sleep(loss.settled(config) + config.lease_evict - time.monotonic())
        self._touched |= {node for node in self._cluster.nodes if not node.alive}
        await self._bring_up_to(NODES - self._under_way + 1)

    async def _keep_taking_the_storage_away(self, rng: random.Random, end: float) -> None:
        while time.monotonic() < end:
            await asyncio.sleep(
                rng.uniform(1.0, 3.0) * self._cluster.config.failover_bound
            )  # time to find out which members are dead
            seconds = rng.choice(OUTAGES) * self._cluster.config.lease_local
            async with self._storage_is_whole, self._fault("storage away"):
                if self._cluster.store.server is None:
                    async with self._cluster.unusable(
                        rng.choice(("writing", "reading and writing"))
                    ):
                        await asyncio.sleep(seconds)
                else:
                    await take_away(
                        self._cluster.store.server,
                        rng.choice(("frozen", "stopped", "killed")),
                        seconds,
                    )


async def take_away(server: Server, how: str, seconds: float) -> None:
    """Freeze, stop or kill the server of a storage, and have it back ``seconds`` later."""
    go = {"frozen": server.pause, "stopped": server.stop, "killed": server.kill}[how]
    await asyncio.to_thread(go)
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.resume if how == "frozen" else server.start)


# --- all rounds -----------------------------------------------------------------------------------


async def run(
    settings: Settings, server: Server | None, directory: Path, say: Callable[[str], None]
) -> Figures:
    """Play all rounds.

    ``server``: the storage's, if it has one. ``say`` is told how the run goes.
    """
    figures = Figures()
    seconds = 60 * settings.minutes
    rounds = max(1, round(seconds / LONGEST_ROUND))
    for number, preset in zip(count(1), islice(cycle(settings.presets), rounds), strict=False):
        place = directory / str(number)
        place.mkdir()
        store = file_in(place) if server is None else await place_on(server)
        lanes = 1 + (number - 1) // len(settings.presets) % 2 if settings.all_faults else 1
        before, calls = figures.faults.total(), figures.outcomes.total()
        await play(
            store,
            place,
            figures,
            preset,
            lanes,
            settings.faults,
            seconds / rounds,
            f"{settings.seed}/{number}",
        )
        done = (
            f"{figures.faults.total() - before:3} faults, {figures.outcomes.total() - calls:6,}"
            " calls"
        )
        say(
            f"round {number:2} of {rounds}  {preset:6}  {lanes} at a time  {done},"
            f" {len(figures.findings)} findings so far"
        )
    return figures


async def play(
    store: Store,
    directory: Path,
    figures: Figures,
    preset: str,
    lanes: int,
    faults: Sequence[str],
    seconds: float,
    seed: str,
) -> None:
    """Play one round."""
    cluster = Cluster(directory, preset, store)
    try:
        await asyncio.gather(*(cluster.start() for _ in range(NODES)))
        async with rio.Client(store.url, refresh_interval=1.0) as cluster.client:
            load = Load(cluster.client, callers=16, counters=100, pause=0.04, name="victim")
            broken = Round(cluster, load, figures, preset=preset, lanes=lanes, faults=faults)
            async with load:
                await broken.run(seconds, seed)
            figures.findings += await load.violations(cluster, *broken.losses)
            figures.outcomes.update(call.outcome for call in load.calls)
            figures.acknowledged_writes += sum(
                call.outcome == "acknowledged" and call.kind in ("add", "put")
                for call in load.calls
            )
            figures.wrongly_evicted += broken.wrongly_evicted()
    finally:
        with (directory / "servers.log").open("w") as log, redirect_stdout(log):
            await cluster.end()


# --- the table ------------------------------------------------------------------------------------


def table(settings: Settings, figures: Figures) -> str:
    outcomes = ", ".join(
        f"{number:,} {outcome}" for outcome, number in sorted(figures.outcomes.items())
    )
    rows = [
        (
            "faults injected",
            f"{figures.faults.total():,}",
            ", ".join(f"{name} {times}" for name, times in sorted(figures.faults.items())),
        ),
        ("calls", f"{figures.outcomes.total():,}", outcomes),
        ("acknowledged writes", f"{figures.acknowledged_writes:,}", ""),
        ("  lost", f"{figures.of_kind('lost'):,}", "must be 0"),
        ("  applied twice", f"{figures.of_kind('doubled'):,}", "must be 0"),
        ("double activations", f"{figures.of_kind('overlap'):,}", "must be 0"),
        (
            "stale answers and others",
            f"{figures.of_kind('stale', 'order', 'unexpected'):,}",
            "must be 0",
        ),
        (
            "evicted for no fault",
            f"{figures.wrongly_evicted:,}",
            "members: nothing had been done to them, and they lost nothing",
        ),
        (
            "failed in drains",
            f"{figures.failed_in_drains:,}",
            f"calls, in {len(figures.drained)} drains that were alone",
        ),
        ("slowest call in drains", spread(figures.drained), ""),
    ]
    for preset in settings.presets:
        bound = f"the bound is {ClusterConfig.named(preset).failover_bound:.2f} s"
        after = f"{len(figures.failover[preset])} objects of {figures.kills[preset]} servers"
        rows.append(
            (
                f"failover, {preset}",
                spread(figures.failover[preset]),
                f"{after} that were killed; {bound}",
            )
        )
        rows.append(
            (
                f"restart, {preset}",
                spread(figures.restart[preset]),
                f"{len(figures.restart[preset])} objects; at the same address",
            )
        )
    return "\n".join(f"{name:26}{value:>26}  {note}".rstrip() for name, value, note in rows)


def spread(seconds: Iterable[float]) -> str:
    ascending = sorted(seconds)
    return (
        f"p50 {percentile(ascending, 50):.2f} s  p99 {percentile(ascending, 99):.2f} s"
        if ascending
        else "-"
    )


def percentile(ascending: Sequence[float], percent: int) -> float:
    return ascending[min(len(ascending) - 1, len(ascending) * percent // 100)]


def main(environ: Mapping[str, str]) -> int:
    settings = Settings(environ)
    print(f"make chaos {settings}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="rio-chaos-"))
    with serving(settings.storage) as server:
        figures = asyncio.run(
            run(settings, server, directory, say=lambda text: print(text, flush=True))
        )
    print(f"\n{table(settings, figures)}\n")
    if not figures.findings:
        shutil.rmtree(directory)
        return 0
    for finding in figures.findings[:30]:
        print(f"{finding.kind}: {finding.text}")
    print(f"\nwhat the servers logged is in {directory}; again: make chaos {settings}")
    return 1


if __name__ == "__main__":
    logging.disable(logging.ERROR)  # a client says once more that the storage is away
    sys.exit(main(os.environ))
