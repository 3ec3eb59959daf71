"""A whole cluster of the production runtime in virtual time, its users, and its faults."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec

import rio
from rio.cluster.config import ClusterConfig
from rio.cluster.peer_to_peer import PeerToPeerClusterProvider
from rio.contracts.membership import MemberStatus
from rio.errors import NodeEvicted, RioError, StorageError
from rio.testing import Host, LocalCluster, LocalNode, VirtualTimeLoop
from rio.transport import codec
from tests.simulation.history import History, now
from tests.simulation.objects import (
    Add,
    AddElsewhere,
    Bag,
    Content,
    Counter,
    Get,
    GetElsewhere,
    Put,
    Read,
    Register,
    Relay,
    Set,
    Sum,
    registry,
)
from tests.simulation.recorded import recorded_storage

FAULTS = (
    "kill", "kill", "stop", "condemn", "stall", "stall", "stall_many",
    "halves", "isolate", "users_only", "bridge", "ring", "one_way", "swizzle",
    "lose_client", "break_connections", "lose_messages",
    "no_storage", "no_storage", "no_storage_for_all", "silent_storage", "silent_storage",
    "slow_storage", "late_answers", "late_eviction", "lost_answers", "lost_answers",
    "another_server",
)  # fmt: skip
"""The faults to draw from, one at a time. A fault that stands twice is twice as likely."""

ACTIONS = ("add", "add", "get", "add_elsewhere", "get_elsewhere", "put", "read", "use_register")
"""What users do. An action that stands more often is more likely."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one run. Those that are not given are drawn from the seed."""

    seconds: float = 60.0
    """The time in which things go wrong."""
    nodes: int | None = None
    preset: str | None = None
    rate_error: float | None = None
    """How wrong the clocks' rates may be; 0.1 is ten percent."""
    rates: tuple[float, ...] = ()
    """The rates to draw from instead, without the promises that need good clocks."""
    faults: tuple[str, ...] = FAULTS
    fault_every: float = 1.0
    """The time between two faults in units of ``lease_evict``, on average."""
    fault_lasts: tuple[float, ...] = (0.1, 0.3, 0.7, 0.77, 0.95, 1.0, 1.05, 1.3, 2.0, 4.0)
    """The lengths of faults in units of ``lease_evict``: below, at and above what a lease survives.
    """
    actions: tuple[str, ...] = ACTIONS
    think: float = 0.05
    """The pause between two calls of a user in units of ``lease_evict``, on average."""
    impatience: float = 0.02
    """The share of calls that their callers give up."""
    pause: float = 0.1
    """The longest wait of a handler before it saves."""
    counters: int = 4
    bags: int = 2
    registers: int = 4
    relays: int = 3
    users: int = 3
    config: ClusterConfig | None = None
    idle_after: float = 900.0
    max_objects: int | None = None


class World:
    """``rio.testing.run(world.run(), seed=seed)``, then ``world.findings``."""

    def __init__(self, seed: int, settings: Settings | None = None) -> None:
        self.settings = settings = settings or Settings()
        self.rng = random.Random(seed)
        self.history = History()
        preset = settings.preset or self.rng.choice(("local", "local", "fast", "strict"))
        self.config = settings.config or ClusterConfig.named(preset)
        self.unit = self.config.lease_evict
        """A length in seconds that matters to the lease."""
        self.rate_error = (
            self.rng.choice((0.001, 0.01, 0.1))
            if settings.rate_error is None
            else settings.rate_error
        )
        self.count = settings.nodes or self.rng.choice((2, 3, 3, 3, 4, 5, 7))
        app_data = rio.AppData()
        app_data.set(self.history)
        lag = self.rng.choice((0.0002, 0.002, 0.02))
        network_rng = random.Random(self.rng.random())
        self.cluster = LocalCluster(
            registry(),
            nodes=0,
            cluster=self.config,
            storage=recorded_storage(self.history),
            app_data=app_data,
            config=rio.ServerConfig(
                idle_after=settings.idle_after, max_objects=settings.max_objects
            ),
            latency=lambda: network_rng.expovariate(1 / lag),
            seed=seed,
        )
        self.faults: dict[str, int] = {}
        self.findings: list[str] = []
        self.healed_within = 0.0
        self._numbers = itertools.count(1)
        self._ending: dict[asyncio.Task[None], None] = {}
        """Nodes that are being killed or stopped."""
        self._undoing: dict[asyncio.Task[None], None] = {}
        """Faults that last for a while."""
        self._healing = False

    # --- the run ----------------------------------------------------------------------------------

    async def run(self) -> None:
        async with self.cluster:
            for _ in range(self.count):
                await self.start()
            users = [
                asyncio.create_task(self._user(number)) for number in range(self.settings.users)
            ]
            keeper = asyncio.create_task(self._keep_up())
            await self._break_things(now() + self.settings.seconds)
            await self._heal(keeper)
            await asyncio.gather(*users)
            await asyncio.gather(
                *(self._last_call(number) for number in range(self.settings.counters))
            )
        no_overlap = self.rate_error <= 0.01 and self.config == ClusterConfig.strict()
        self.findings += self.history.findings(
            self._final(), no_overlap=no_overlap, good_clocks=not self.settings.rates
        )

    async def start(self, node: LocalNode | None = None) -> None:
        rate, offset = (
            1 + self.rng.uniform(-self.rate_error, self.rate_error),
            self.rng.uniform(0, 1e5),
        )
        if self.settings.rates:
            rate = self.rng.choice(self.settings.rates)
        clock = {"rate": rate, "offset": offset}
        started = await (
            self.cluster.start_node(**clock)
            if node is None
            else self.cluster.restart(node, **clock)
        )
        self._set_delay(started)

    async def _keep_up(self) -> None:
        """Start the nodes that are down again, as a supervisor does."""
        while True:
            await asyncio.sleep(self.rng.uniform(0.1, 1.0) * (0.3 if self._healing else self.unit))
            down = [node for node in self.cluster.nodes if node.host.down]
            if down:
                try:
                    await self.start(self.rng.choice(down))
                except (RioError, RuntimeError) as error:
                    self._count(f"start failed: {type(error).__name__}")

    async def _heal(self, keeper: asyncio.Task[None]) -> None:
        """Undo all faults. From here on the cluster has to come back by itself."""
        self._healing = True
        for task in self._undoing:
            task.cancel()
        await asyncio.gather(*self._undoing, return_exceptions=True)
        self._lose_nothing()
        self.cluster.heal()
        for node in self.cluster.nodes:
            node.storage.delay, node.storage.answer_delay = 0.001, None
            self._loop.resume(node.host, at_once=True)
        began = now()
        await asyncio.gather(*self._ending)
        while not self._is_well():
            if now() - began > 30.0 + 3 * self.unit:
                self.findings.append(
                    f"after {now() - began:.1f} s without a fault: {self._state()}"
                )
                break
            if keeper.done():
                keeper.result()
            await asyncio.sleep(0.1)
        self.healed_within = now() - began
        keeper.cancel()
        await asyncio.gather(keeper, return_exceptions=True)

    def _is_well(self) -> bool:
        """Whether all nodes are up, admit calls and agree on the members."""
        nodes = self.cluster.nodes
        if not all(node.alive for node in nodes):
            return False
        views = {node.server.members.version for node in nodes}
        active = {
            member.generation
            for member in nodes[0].server.members.members
            if member.status == MemberStatus.ACTIVE
        }
        admits = all(node.host.clock() < node.server._cluster._lease.until for node in nodes)
        return len(views) == 1 and active == {node.generation for node in nodes} and admits

    def _state(self) -> str:
        return ", ".join(
            f"{node} sees version {node.server.members.version}" for node in self.cluster.nodes
        )

    async def _last_call(self, number: int) -> None:
        """Make a call that must succeed."""
        caller, id, client = f"last-{number}", str(number), self.cluster.client
        outcome = await self.history.call(
            "get",
            f"Counter/{id}",
            caller,
            1,
            client.send(Counter, id, Get(caller, 1), timeout=30.0),
        )
        if outcome != "acknowledged":
            self.findings.append(
                f"Counter/{id} does not answer after everything was healed: {outcome}"
            )

    def _final(self) -> dict[str, Any]:
        """The stored value in the end."""
        final: dict[str, Any] = {}
        states: Any = self.cluster.storage.state
        for object_id, (_, stored) in states._objects.items():
            [state] = stored.states.values()
            if object_id.type_name in ("Counter", "Register"):
                final[str(object_id)] = codec.decode(state.data, Sum).value
            else:
                final[str(object_id)] = codec.decode(state.data, Content).elements
        return final

    # --- the users --------------------------------------------------------------------------------

    async def _user(self, number: int) -> None:
        """A process with its own client and a few callers."""
        host = self.cluster.network.add(Host(f"user-{number}"))
        await host.run(self._using(host, number))

    async def _using(self, host: Host, number: int) -> None:
        rng = random.Random(self.rng.random())
        async with self.cluster.new_client(
            clock=host.clock, timeout=rng.choice((2.0, 10.0, 30.0))
        ) as client:
            await asyncio.gather(
                *(self._caller(f"user-{number}-{caller}", client, rng) for caller in range(3))
            )

    async def _caller(self, name: str, client: rio.Client, rng: random.Random) -> None:
        self.history.patience[name] = client.timeout
        held: dict[str, int] = {}
        while not self._healing:
            await asyncio.sleep(rng.expovariate(1 / (self.settings.think * self.unit)))
            action = rng.choice(self.settings.actions)
            if action == "use_register":
                await self._use_register(name, client, rng, held)
            elif rng.random() < self.settings.impatience:
                await self._impatient(
                    getattr(self, f"_{action}")(name, client, rng), rng.expovariate(1 / 0.02)
                )
            else:
                await getattr(self, f"_{action}")(name, client, rng)

    async def _impatient(self, work: Coroutine[Any, Any, None], patience: float) -> None:
        """Give up a call. Its outcome is unknown, which the caller itself notes."""
        task = asyncio.create_task(work)
        await asyncio.wait((task,), timeout=patience)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def _add(self, name: str, client: rio.Client, rng: random.Random) -> None:
        id, number = str(rng.randrange(self.settings.counters)), next(self._numbers)
        message = Add(name, number, pause=rng.choice((0.0, 0.0, 0.1, 1.0)) * self.settings.pause)
        await self.history.call(
            "add", f"Counter/{id}", name, number, client.send(Counter, id, message)
        )

    async def _get(self, name: str, client: rio.Client, rng: random.Random) -> None:
        id, number = str(rng.randrange(self.settings.counters)), next(self._numbers)
        await self.history.call(
            "get", f"Counter/{id}", name, number, client.send(Counter, id, Get(name, number))
        )

    async def _add_elsewhere(self, name: str, client: rio.Client, rng: random.Random) -> None:
        id, number = str(rng.randrange(self.settings.counters)), next(self._numbers)
        reply = client.send(
            Relay, str(rng.randrange(self.settings.relays)), AddElsewhere(name, number, id)
        )
        await self.history.call("add", f"Counter/{id}", name, number, reply)

    async def _get_elsewhere(self, name: str, client: rio.Client, rng: random.Random) -> None:
        id, number = str(rng.randrange(self.settings.counters)), next(self._numbers)
        reply = client.send(
            Relay, str(rng.randrange(self.settings.relays)), GetElsewhere(name, number, id)
        )
        await self.history.call("get", f"Counter/{id}", name, number, reply)

    async def _put(self, name: str, client: rio.Client, rng: random.Random) -> None:
        id, number = str(rng.randrange(self.settings.bags)), next(self._numbers)
        await self.history.call(
            "put",
            f"Bag/{id}",
            name,
            number,
            client.send(Bag, id, Put(name, number, number)),
            number,
        )

    async def _read(self, name: str, client: rio.Client, rng: random.Random) -> None:
        id, number = str(rng.randrange(self.settings.bags)), next(self._numbers)
        await self.history.call(
            "read", f"Bag/{id}", name, number, client.send(Bag, id, Read(name, number))
        )

    async def _use_register(
        self, name: str, client: rio.Client, rng: random.Random, held: dict[str, int]
    ) -> None:
        id, number = str(rng.randrange(self.settings.registers)), next(self._numbers)
        object, expected = f"Register/{id}", held.get(id)
        if expected is None or rng.random() < 0.5:
            value = await self.history.operation(
                object, name, number, client.send(Register, id, Get(name, number))
            )
        else:
            message = Set(name, number, expected, number)
            value = await self.history.operation(
                object, name, number, client.send(Register, id, message), expected, number
            )
        if value is not None:
            held[id] = value

    # --- what goes wrong --------------------------------------------------------------------------

    async def _break_things(self, end: float) -> None:
        while now() < end:
            await asyncio.sleep(
                min(end - now(), self.rng.expovariate(1 / (self.settings.fault_every * self.unit)))
                + 1e-3
            )
            if self.settings.faults:
                fault = self.rng.choice(self.settings.faults)
                self._count(fault)
                getattr(self, f"_fault_{fault}")()

    def _count(self, what: str) -> None:
        self.faults[what] = self.faults.get(what, 0) + 1

    @property
    def _loop(self) -> VirtualTimeLoop:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        return loop

    def _a_while(self) -> float:
        return self.unit * self.rng.choice(self.settings.fault_lasts)

    def _for_a_while(self, undo: Callable[[], object]) -> None:
        self._later(self._a_while(), undo)

    def _later(self, seconds: float, undo: Callable[[], object]) -> None:
        async def wait() -> None:
            await asyncio.sleep(seconds)
            undo()

        self._spawn(wait(), self._undoing)

    def _spawn(
        self, work: Coroutine[Any, Any, None], running: dict[asyncio.Task[None], None]
    ) -> None:
        task = asyncio.create_task(work)
        running[task] = None
        task.add_done_callback(lambda done: running.pop(done, None))

    def _alive(self) -> list[LocalNode]:
        return [node for node in self.cluster.nodes if node.alive]

    def _some(self) -> list[LocalNode]:
        """A node that is up, if there is one."""
        alive = self._alive()
        return [self.rng.choice(alive)] if alive else []

    def _names(self) -> list[str]:
        names = [node.name for node in self.cluster.nodes]
        self.rng.shuffle(names)
        return names

    def _fault_kill(self) -> None:
        for node in self._some():
            self._spawn(node.kill(), self._ending)

    def _fault_stop(self) -> None:
        for node in self._some():
            self._spawn(self._stopped(node), self._ending)

    async def _stopped(self, node: LocalNode) -> None:
        try:
            await node.stop()
        except (RuntimeError, NodeEvicted):
            self._count("stop ended otherwise")

    def _fault_condemn(self) -> None:
        """Declare a member dead, as an operator does."""
        for node in self._some():
            for other in self._some():
                self._spawn(self._condemned(node, other.generation), self._ending)

    async def _condemned(self, node: LocalNode, generation: int) -> None:
        provider = node.server._cluster
        assert isinstance(provider, PeerToPeerClusterProvider)
        try:
            await node.host.run(provider.condemn(generation))
        except (StorageError, NodeEvicted) as error:
            self._count(f"condemning failed: {type(error).__name__}")

    def _stall(self, node: LocalNode, seconds: float) -> None:
        self.history.stalls[node.host].append(
            (now(), max(now() + seconds, node.host.stalled_until))
        )
        self.cluster.stall(node, seconds)

    def _fault_stall(self) -> None:
        for node in self._some():
            self._stall(node, self._a_while())

    def _fault_stall_many(self) -> None:
        for node in self._alive():
            if self.rng.random() < 0.5:
                self._stall(node, self._a_while())

    def _cut(self, links: Sequence[tuple[str, str]]) -> None:
        for source, target in links:
            self.cluster.network.cut(source, target)
        self._for_a_while(self._join)

    def _join(self) -> None:
        self.cluster.network.heal()

    def _both_ways(self, *groups: Sequence[str]) -> list[tuple[str, str]]:
        return [
            link
            for one, other in itertools.permutations(groups, 2)
            for link in itertools.product(one, other)
        ]

    def _fault_halves(self) -> None:
        names = self._names()
        middle = self.rng.randint(1, max(1, len(names) - 1))
        self._cut(self._both_ways(names[:middle], names[middle:]))

    def _fault_isolate(self) -> None:
        names = [*self._names(), *(f"user-{number}" for number in range(self.settings.users))]
        self._cut(self._both_ways(names[:1], names[1:]))

    def _silence_gossip(self, node: LocalNode) -> None:
        """Let a node hear nothing of what the others think of it."""
        if self.config.gossip is not None:
            self._cut(
                self._both_ways([node.name], [name for name in self._names() if name != node.name])
            )

    def _fault_users_only(self) -> None:
        """A node neither hears the others nor reaches the storage, and users still call it."""
        for node in self._some():
            self._silence_gossip(node)
            node.storage.silent = True
            self._for_a_while(node.storage.heal)

    def _fault_bridge(self) -> None:
        """Two halves that only one node reaches."""
        names = self._names()[1:]
        self._cut(self._both_ways(names[: len(names) // 2], names[len(names) // 2 :]))

    def _fault_ring(self) -> None:
        """A ring: every node sees a majority, no two nodes the same."""
        names, links = self._names(), []
        for number, name in enumerate(names):
            reach = {
                names[(number + offset) % len(names)]
                for offset in range(-(len(names) // 4) - 1, len(names) // 4 + 2)
            }
            links += [(name, other) for other in names if other not in reach]
        self._cut(links)

    def _fault_one_way(self) -> None:
        names = self._names()
        self._cut(
            [(names[0], other) for other in names[1:]]
            if self.rng.random() < 0.5
            else [(other, names[0]) for other in names[1:]]
        )

    def _fault_swizzle(self) -> None:
        """Links stop one by one, and come back one by one in another order."""
        names = self._names()
        links = [link for link in itertools.permutations(names, 2) if self.rng.random() < 0.5]
        for link in links:
            begin = self.rng.uniform(0, self.unit)
            self._later(begin, partial(self.cluster.network.cut, *link))
            self._later(begin + self._a_while(), partial(self.cluster.network.heal, *link))

    def _fault_lose_client(self) -> None:
        user = f"user-{self.rng.randrange(self.settings.users)}"
        self._cut(self._both_ways([user], self._names()[:1]))

    def _fault_break_connections(self) -> None:
        self.cluster.network.break_connections(self.rng.choice(self._names()))

    def _fault_lose_messages(self) -> None:
        self.cluster.network.loss = self.rng.choice((0.001, 0.01, 0.1))
        self._for_a_while(self._lose_nothing)

    def _lose_nothing(self) -> None:
        self.cluster.network.loss = 0.0

    def _fault_no_storage(self) -> None:
        for node in self._some():
            node.storage.unavailable = True
            self._for_a_while(node.storage.heal)

    def _fault_no_storage_for_all(self) -> None:
        for node in self._alive():
            node.storage.unavailable = True
        self._for_a_while(self._heal_storage)

    def _heal_storage(self) -> None:
        for node in self.cluster.nodes:
            node.storage.heal()

    def _fault_silent_storage(self) -> None:
        for node in self._some():
            node.storage.silent = True
            self._for_a_while(node.storage.heal)

    def _fault_slow_storage(self) -> None:
        for node in self._some():
            self._set_delay(node, share_of_slow=0.7)
            self._for_a_while(partial(self._set_delay, node))

    def _set_delay(self, node: LocalNode, share_of_slow: float = 0.02) -> None:
        rng, longest = random.Random(self.rng.random()), self.config.storage_timeout
        node.storage.delay = lambda: rng.uniform(
            0.0005, 0.005 if rng.random() > share_of_slow else longest
        )

    def _fault_late_answers(self) -> None:
        """Let the answers of the storage come late to a node, and then no request reach it."""
        for node in self._some():
            node.storage.answer_delay = 0.9 * self.config.storage_timeout
            self._silence_gossip(node)
            begin, lasts = self.rng.uniform(2, 4) * self.config.renew_interval, self._a_while()
            self._later(begin, partial(setattr, node.storage, "delay", lasts))
            self._later(begin + lasts, partial(self._end_late_answers, node))

    def _end_late_answers(self, node: LocalNode) -> None:
        node.storage.answer_delay = None
        self._set_delay(node)

    def _fault_late_eviction(self) -> None:
        """Renew once more just as the others have decided on the eviction.

        Their way to the storage is long.
        """
        for victim in self._some():
            others = [node for node in self._alive() if node is not victim]
            victim.storage.silent = True
            self._silence_gossip(victim)
            for other in others:
                self._later(
                    0.8 * self.unit,
                    partial(setattr, other.storage, "delay", self.config.storage_timeout / 3),
                )
            self._later(
                self.unit * self.rng.uniform(1.0, 1.3),
                partial(self._renew_once_more, victim, others),
            )

    def _renew_once_more(self, victim: LocalNode, others: Sequence[LocalNode]) -> None:
        for node in (victim, *others):
            self._set_delay(node, share_of_slow=0.0)
        victim.storage.heal()
        self._later(
            1.2 * self.config.renew_interval, partial(setattr, victim.storage, "silent", True)
        )
        self._later(self.unit, victim.storage.heal)

    def _fault_another_server(self) -> None:
        """Have another database server take over, which has everything: all nodes hear of it."""
        history = str(self.rng.random())
        for node in self._alive():
            for role in node.server._storage:
                type(role).history = history  # type: ignore[assignment, method-assign]

    def _fault_lost_answers(self) -> None:
        for node in self._some():
            node.storage.lost_answers = self.rng.choice((0.1, 0.5))
            self._for_a_while(node.storage.heal)
