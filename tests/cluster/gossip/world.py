"""A cluster of :class:`Gossip` in one thread, as discrete events from one seed.

It has an in-memory network with loss, delay and cuts, a storage, faults, and virtual time. A node
renews its lease, polls the storage, evicts by :class:`rio.cluster.lease.Observer`, and does what
its Gossip says. There is no asyncio, so a thousand nodes fit.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from rio.cluster.config import ClusterConfig
from rio.cluster.gossip.actions import (
    CastVote,
    Condemn,
    Fence,
    Refresh,
    ResetLink,
    Send,
)
from rio.cluster.gossip.conversation import Gossip
from rio.cluster.gossip.events import (
    GossipEvent,
    LoopLate,
    MessageReceived,
    SnapshotRead,
    Tick,
    VoteWritten,
)
from rio.cluster.lease import Observer
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus, Vote
from rio.storage.local import LocalMembershipStorage

T = TypeVar("T")

STRICT = ClusterConfig.strict()


def at_once(call: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits, as those of the storage in memory do."""
    try:
        call.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class Node:
    def __init__(self, world: World, generation: int) -> None:
        self.world = world
        self.generation = generation
        self.gossip = Gossip(generation, world.config, random.Random(world.rng.random()), world.now)
        self.observer = Observer(generation, world.config)
        self.alive = True
        self.evicted = False
        self.fences = 0
        self.frozen_until = -math.inf
        self.renews = True
        self.storage_down = False
        self.seen = MembershipSnapshot(0, 0)
        self.bytes_sent = 0
        self.messages_sent = 0
        self.queries = 0
        self.suspected_at: dict[int, float] = {}
        self._tick_due = math.inf

    # All that happens to a node goes through here, so that a frozen node notices nothing until it
    # thaws.
    def when_awake(self, act: Callable[[], None]) -> None:
        if self.alive and self.world.now < self.frozen_until:
            self.world.at(self.frozen_until, lambda: self.when_awake(act))
        elif self.alive:
            act()

    def start(self) -> None:
        config, rng = self.world.config, self.world.rng
        self.read()
        self.world.at(self.world.now + rng.uniform(0, config.renew_interval), self._renewing)
        self.world.at(self.world.now + rng.uniform(0, config.poll_interval), self._polling)

    def _renewing(self) -> None:
        self.world.at(self.world.now + self.world.config.renew_interval, self._renewing)
        if self.renews:
            self.when_awake(self._renew)

    def _renew(self) -> None:
        self.queries += 1
        if not self.storage_down and not at_once(self.world.storage.renew(self.generation)):
            self.stop()

    def stop(self) -> None:
        """Learn that the node is no longer a live member."""
        self.alive, self.evicted = False, True
        member = at_once(self.world.storage.snapshot()).find(self.generation)
        if member is not None and not member.status.terminal:
            at_once(
                self.world.storage.set_status(self.generation, member.status, MemberStatus.LEFT)
            )

    def _polling(self) -> None:
        self.world.at(self.world.now + self.world.config.poll_interval, self._polling)
        self.when_awake(lambda: self.read(observe=True))

    def read(self, observe: bool = False) -> None:
        sent = self.world.now
        self.queries += 1
        if not self.storage_down:
            snapshot = at_once(self.world.storage.snapshot())
            self.world.at(
                sent + self.world.rng.uniform(0.001, 0.01),
                lambda: self.when_awake(lambda: self._took(snapshot, sent, observe)),
            )

    def _took(self, snapshot: MembershipSnapshot, sent: float, observe: bool) -> None:
        if (snapshot.status_of(self.generation) or 0) >= MemberStatus.CONDEMNED:
            self.stop()
            return
        if snapshot.version > self.seen.version:
            self.seen = snapshot
        if observe and self.world.observers:
            for member in self.observer.step(snapshot, sent, self.world.now).evict:
                self.evict(member)
        self.feed(SnapshotRead(snapshot, sent))

    def evict(self, member: Member) -> None:
        self.queries += 1
        expected = {"expected_counter": member.lease_counter}
        change = at_once(
            self.world.storage.set_status(
                member.generation, member.status, MemberStatus.DEAD, **expected
            )
        )
        if change.applied:
            self.world.note("E1", member.generation)
            self.read()

    def feed(self, event: GossipEvent) -> None:
        for action in self.gossip.step(event, self.world.now):
            match action:
                case Send():
                    self.bytes_sent += len(action.payload) + self.world.frame_overhead
                    self.messages_sent += 1
                    self.world.deliver(self, action.address, action.payload)
                case Refresh():
                    self.read()
                case CastVote():
                    self.vote(action.target)
                case Condemn():
                    self.condemn(action.member)
                case Fence():
                    self.fences += 1
                case ResetLink():
                    pass
        for target in self.gossip.suspicions:
            self.suspected_at.setdefault(target, self.world.now)
        self._arm()

    def vote(self, target: int) -> None:
        self.queries += 1
        self.world.votes += 1
        change = at_once(self.world.storage.vote(target, Vote(self.generation, self.world.now)))
        if change.member is not None:
            self.feed(VoteWritten(change.member))

    def condemn(self, member: Member) -> None:
        self.queries += 1
        if at_once(
            self.world.storage.set_status(member.generation, member.status, MemberStatus.CONDEMNED)
        ).applied:
            self.world.note("E2", member.generation)
            self.read()

    def _arm(self) -> None:
        due = self.gossip.due
        if due < self._tick_due:
            self._tick_due = due
            self.world.at(due, lambda: self._tick(due))

    def _tick(self, due: float) -> None:
        if self._tick_due == due:
            self.when_awake(lambda: self._awake_tick(due))

    def _awake_tick(self, due: float) -> None:
        self._tick_due = math.inf
        late = self.world.now - due
        if late > 0.25:
            self.gossip.step(LoopLate(late), self.world.now)
        self.feed(Tick())


class World:
    def __init__(
        self,
        count: int,
        seed: int = 0,
        config: ClusterConfig = STRICT,
        *,
        loss: float = 0.0,
        observers: bool = True,
        known: bytes = b"",
    ) -> None:
        self.rng = random.Random(seed)
        self.config = config
        self.now = 0.0
        self.loss = loss
        self.observers = observers
        self.frame_overhead = 4 + 3
        self.storage = LocalMembershipStorage(clock=lambda: 0.0)
        at_once(self.storage.prepare())
        self.cut: Callable[[int, int], bool] = lambda source, target: False
        self.log: list[tuple[float, str, int]] = []
        self.votes = 0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        generations = [
            at_once(self.storage.register(f"10.0.0.{number}:1")).generation
            for number in range(count)
        ]
        for generation in generations:
            at_once(self.storage.set_status(generation, MemberStatus.JOINING, MemberStatus.ACTIVE))
        self.nodes = {generation: Node(self, generation) for generation in generations}
        self._by_address = {
            f"10.0.0.{number}:1": self.nodes[generation]
            for number, generation in enumerate(generations)
        }
        for node in self.nodes.values():
            if known:
                node.gossip.table.merge(known)
            node.start()

    def note(self, what: str, generation: int) -> None:
        self.log.append((self.now, what, generation))

    def at(self, moment: float, act: Callable[[], None]) -> None:
        heapq.heappush(self._events, (moment, next(self._order), act))

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, act = heapq.heappop(self._events)
            act()
        self.now = end

    def run_until(
        self, condition: Callable[[], bool], within: float = 120.0, step: float = 0.05
    ) -> float:
        start = self.now
        while not condition():
            assert self.now - start < within, "it did not come to that"
            self.run(step)
        return self.now - start

    def run_until_ended(self, generation: int) -> float:
        """Run until this member has ended, and it alone; the seconds that took."""
        return self.run_until(lambda: self.ended() == [generation], step=0.02)

    def run_until_all_see_the_end_of(self, generation: int) -> float:
        """Run until each node has read that this member has ended; the seconds that took."""
        return self.run_until(lambda: self.all_see_the_end_of(generation), step=0.02)

    def deliver(self, source: Node, address: str, payload: bytes) -> None:
        target = self._by_address[address]
        if self.rng.random() >= self.loss and not self.cut(source.generation, target.generation):
            event = MessageReceived(source.generation, payload)
            self.at(
                self.now + self.rng.uniform(0.0002, 0.003),
                lambda: target.when_awake(lambda: target.feed(event)),
            )

    def statuses(self) -> dict[int, MemberStatus]:
        return {
            member.generation: member.status for member in at_once(self.storage.snapshot()).members
        }

    def ended(self) -> list[int]:
        """The members that were condemned, have left or are dead."""
        return [
            generation
            for generation, status in self.statuses().items()
            if status >= MemberStatus.CONDEMNED
        ]

    def all_see_the_end_of(self, generation: int) -> bool:
        return all(
            (node.seen.status_of(generation) or 0) >= MemberStatus.LEFT
            for node in self.nodes.values()
            if node.alive and node.generation != generation
        )
