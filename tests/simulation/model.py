"""The protocol of lease, eviction, claim, state and drain as discrete events (D1a).

Without asyncio, thousands of seeds fit. The arithmetic of the lease, the observer and the storages
are those of production. What stands between them is written once more here, as short as possible,
so that a mistake in the rules themselves shows without the runtime around them.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias, TypeVar

from rio.cluster.config import ClusterConfig
from rio.cluster.lease import Lease, Observer
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus
from rio.contracts.state import Batch, StoredObject, StoredState
from rio.errors import StorageUnavailable, Superseded
from rio.identity import ObjectId
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState
from tests.cluster.gossip.world import at_once

T = TypeVar("T")

Process: TypeAlias = Generator[float, None, T]
"""A process. It yields the seconds that it waits."""

FAULTS = ("kill", "freeze", "cut", "outage", "condemn", "drain")
DURATIONS = (0.3, 0.5, 2.0, 3.0, 4.9, 5.1, 6.4, 6.6, 8.0, 12.0, 20.0, 30.0)
"""Seconds around the edges of the strict lease."""


def value_of(stored: StoredObject) -> int:
    return int(stored.states["value"].data) if stored.version else 0


class Activation:
    def __init__(self, token: int, value: int, version: int) -> None:
        self.token = token
        self.value = value
        self.version = version
        self.busy = False


class Node:
    def __init__(self, model: Model, address: str) -> None:
        config, rng = model.config, model.rng
        self.model = model
        self.address = address
        self.rate = 1 + rng.uniform(-model.rate_error, model.rate_error)
        self.lease = Lease(config.lease_local)
        self.frozen_until = self.cut_until = -math.inf
        self.down = False
        self.draining = False
        self.activations: dict[ObjectId, Activation] = {}
        self.activating: set[ObjectId] = set()
        self.generation, self.snapshot = at_once(model.membership.register(address))
        at_once(
            model.membership.set_status(self.generation, MemberStatus.JOINING, MemberStatus.ACTIVE)
        )
        self.observer = Observer(self.generation, config)
        for process in (self.renewing(), self.polling(), *(self.working() for _ in range(2))):
            model.spawn(process, self, rng.uniform(0.0, 1.0))

    def clock(self) -> float:
        return self.model.now * self.rate

    @property
    def admits(self) -> bool:
        return not self.down and self.lease.admits(self.clock())

    def stop(self) -> None:
        self.down = True
        self.lease.fence(self.clock())
        self.activations.clear()

    # --- membership -------------------------------------------------------------------------------

    def renewing(self) -> Process[None]:
        model = self.model
        while True:
            sent = self.clock()
            try:
                if (yield from model.call(self, lambda: model.membership.renew(self.generation))):
                    self.lease.renewed(sent)
                else:
                    self.stop()
            except StorageUnavailable:
                pass
            yield max(0.0, sent + model.config.renew_interval - self.clock()) / self.rate

    def polling(self) -> Process[None]:
        model = self.model
        while True:
            sent = self.clock()
            try:
                snapshot = yield from self.read()
                for member in self.observer.step(snapshot, sent, self.clock()).evict:
                    yield from self.evict(member)
            except StorageUnavailable:
                pass
            yield max(0.0, sent + model.config.poll_interval - self.clock()) / self.rate

    def read(self) -> Process[MembershipSnapshot]:
        model = self.model
        snapshot = yield from model.call(self, model.membership.snapshot)
        if (snapshot.status_of(self.generation) or 0) >= MemberStatus.CONDEMNED:
            self.stop()
            yield from self.leave()
        if snapshot.version >= self.snapshot.version:
            self.snapshot = snapshot
        return snapshot

    def evict(self, member: Member) -> Process[None]:
        model = self.model
        status, counter = member.status, member.lease_counter
        change = yield from model.call(
            self,
            lambda: model.membership.set_status(
                member.generation, status, MemberStatus.DEAD, expected_counter=counter
            ),
        )
        model.evictions += change.applied

    def leave(self) -> Process[None]:
        model = self.model
        member = at_once(model.membership.snapshot()).find(self.generation)
        if member is not None and not member.status.terminal:
            yield from model.call(
                self,
                lambda: model.membership.set_status(
                    self.generation, member.status, MemberStatus.LEFT
                ),
            )

    def drain(self) -> Process[None]:
        model = self.model
        self.draining = True
        try:
            yield from model.call(
                self,
                lambda: model.membership.set_status(
                    self.generation, MemberStatus.ACTIVE, MemberStatus.DRAINING
                ),
            )
            while self.activations:
                for object_id, activation in list(self.activations.items()):
                    if not activation.busy:
                        del self.activations[object_id]
                        yield from self.release(object_id, activation.token)
                yield 0.05
            if not self.down:
                self.stop()
                yield from self.leave()
        except StorageUnavailable:
            self.stop()

    # --- objects ----------------------------------------------------------------------------------

    def working(self) -> Process[None]:
        """Receive the messages that users send to random objects."""
        model = self.model
        while True:
            yield model.rng.uniform(0.05, 0.4)
            object_id = model.rng.choice(model.objects)
            try:
                yield from self.message(object_id)
            except StorageUnavailable:
                self.drop(object_id)

    def drop(self, object_id: ObjectId, activation: Activation | None = None) -> None:
        if activation is None or self.activations.get(object_id) is activation:
            self.activations.pop(object_id, None)

    def message(self, object_id: ObjectId) -> Process[None]:
        if not self.admits:
            return
        if object_id not in self.activations:
            if self.draining or object_id in self.activating:
                return
            self.activating.add(object_id)
            try:
                activation = yield from self.activate(object_id)
            finally:
                self.activating.discard(object_id)
            if activation is None or self.down:
                return
            self.activations[object_id] = activation
        activation = self.activations[object_id]
        if not activation.busy and self.admits:
            yield from self.turn(object_id, activation)

    def activate(self, object_id: ObjectId) -> Process[Activation | None]:
        model = self.model
        token = yield from self.claim(object_id)
        if not token or not self.admits:
            return None
        try:
            stored = yield from model.call(self, lambda: model.state.load_object(object_id, token))
        except Superseded:
            return None
        except StorageUnavailable:
            yield from self.release(object_id, token)
            return None
        return Activation(token, value_of(stored), stored.version)

    def claim(self, object_id: ObjectId) -> Process[int]:
        """The token, or 0."""
        model, own = self.model, self.generation
        placement = yield from model.call(self, lambda: model.placement.claim(object_id, own))
        while placement.generation != own:
            status = self.snapshot.status_of(placement.generation)
            if status is None:
                status = (yield from self.read()).status_of(placement.generation)
            if status is None or not status.terminal:
                return 0
            token = placement.token
            placement = yield from model.call(
                self,
                partial(model.placement.claim, object_id, own, supersede=token),
            )
            if placement.token == token:
                return 0
        return int(placement.token)

    def release(self, object_id: ObjectId, token: int) -> Process[None]:
        with suppress(StorageUnavailable):
            yield from self.model.call(self, lambda: self.model.placement.release(object_id, token))

    def turn(self, object_id: ObjectId, activation: Activation) -> Process[None]:
        """Add one and save, or read. The reply leaves only under the lease."""
        model = self.model
        model.check_admission(self, object_id, activation)
        if model.rng.random() < 0.4:
            model.answered(object_id, activation.value, read=True)
            return
        activation.busy = True
        model.unknown[object_id] += 1  # until an answer is there
        batch = Batch({"value": StoredState(str(activation.value + 1).encode())})
        try:
            activation.version = yield from model.call(
                self,
                lambda: model.state.commit(object_id, activation.token, activation.version, batch),
            )
        except (Superseded, StorageUnavailable) as error:
            model.unknown[object_id] -= isinstance(error, Superseded)
            self.drop(object_id, activation)
            return
        activation.value += 1
        activation.busy = False
        if self.admits:
            model.unknown[object_id] -= 1
            model.answered(object_id, activation.value, read=False)


class Model:
    """``Model(seed).run(300.0)``, then ``findings()``."""

    def __init__(
        self,
        seed: int,
        config: ClusterConfig | None = None,
        *,
        count: int = 5,
        objects: int = 6,
        faults: tuple[str, ...] = FAULTS,
        rate_error: float | None = None,
    ) -> None:
        self.rng = random.Random(seed)
        self.config = config or ClusterConfig.strict()
        self.rate_error = self.rng.choice((0.001, 0.01, 0.1)) if rate_error is None else rate_error
        self.count = count
        self.now = 0.0
        self.outage_until = -math.inf
        self.membership, self.placement, self.state = (
            LocalMembershipStorage(clock=lambda: 0.0),
            LocalObjectPlacement(),
            LocalState(),
        )
        self.state.use_placement(self.placement)
        for storage in (self.membership, self.placement, self.state):
            at_once(storage.prepare())
        self.objects = [ObjectId("Counter", str(number)) for number in range(objects)]
        self.answers: dict[ObjectId, list[int]] = {object_id: [] for object_id in self.objects}
        self.unknown: dict[ObjectId, int] = dict.fromkeys(self.objects, 0)
        self.highest_token: dict[ObjectId, int] = dict.fromkeys(self.objects, 0)
        self.found: list[str] = []
        self.evictions = self.turns = 0
        self._events: list[tuple[float, int, Node | None, Process[Any]]] = []
        self._order = itertools.count()
        self._addresses = itertools.count(1)
        self.nodes: list[Node] = [self.start() for _ in range(count)]
        self.spawn(self._supervising(), None, 0.0)
        if faults:
            self.spawn(self._breaking(faults), None, 10.0)

    # --- time -------------------------------------------------------------------------------------

    def spawn(self, process: Process[Any], node: Node | None, delay: float) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._order), node, process))

    def run(self, seconds: float) -> Model:
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            self.now, _, node, process = heapq.heappop(self._events)
            if node is not None and node.frozen_until > self.now:
                self.spawn(process, node, node.frozen_until - self.now)
            elif node is None or not node.down:
                delay = next(process, None)
                if delay is not None:
                    self.spawn(process, node, delay)
        self.now = end
        return self

    def latency(self) -> float:
        return (
            self.rng.uniform(0.001, 0.02)
            if self.rng.random() < 0.97
            else self.rng.uniform(0.05, 2.5)
        )

    def call(self, node: Node, request: Callable[[], Coroutine[Any, Any, T]]) -> Process[T]:
        """Make one request to the storage. A caller that gives up does not stop it.

        :raises StorageUnavailable: the outcome is unknown.
        """
        there, back = self.latency(), self.latency()
        answer: list[T | Exception] = []
        self.spawn(self._carry_out(node, request, answer, there, back), None, 0.0)
        yield min(there + back + 1e-9, self.config.storage_timeout)
        if not answer:
            raise StorageUnavailable("no answer")
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    def _carry_out(
        self,
        node: Node,
        request: Callable[[], Coroutine[Any, Any, T]],
        answer: list[T | Exception],
        there: float,
        back: float,
    ) -> Process[None]:
        yield there
        if max(self.outage_until, node.cut_until) > self.now:
            return
        try:
            outcome: T | Exception = at_once(request())
        except Superseded as error:
            outcome = error
        yield back
        if node.cut_until <= self.now:
            answer.append(outcome)

    # --- what goes wrong --------------------------------------------------------------------------

    def start(self, address: str = "") -> Node:
        return Node(self, address or f"10.0.0.{next(self._addresses)}:1")

    def _supervising(self) -> Process[None]:
        """Start the nodes that are down again, at their old address or another one."""
        while True:
            yield self.rng.uniform(0.5, 5.0)
            down = [node for node in self.nodes if node.down]
            if down:
                gone = self.rng.choice(down)
                self.nodes.remove(gone)
                self.nodes.append(self.start(gone.address if self.rng.random() < 0.5 else ""))

    def _breaking(self, faults: tuple[str, ...]) -> Process[None]:
        while True:
            alive = [node for node in self.nodes if not node.down]
            if alive:
                self.do(self.rng.choice(faults), self.rng.choice(alive))
            yield self.rng.uniform(1.0, 15.0)

    def do(self, fault: str, node: Node) -> None:
        until = self.now + self.rng.choice(DURATIONS)
        match fault:
            case "kill":
                node.stop()
            case "freeze":
                node.frozen_until = until
            case "cut":
                node.cut_until = until
            case "outage":
                self.outage_until = until
            case "condemn":
                at_once(
                    self.membership.set_status(
                        node.generation, MemberStatus.ACTIVE, MemberStatus.CONDEMNED
                    )
                )
            case "drain":
                self.spawn(node.drain(), node, 0.0)

    # --- what must be true ------------------------------------------------------------------------

    def check_admission(self, node: Node, object_id: ObjectId, activation: Activation) -> None:
        self.turns += 1
        for other in self.nodes:
            if (
                other is not node
                and object_id in other.activations
                and other.frozen_until <= self.now
                and other.admits
            ):
                self.found.append(
                    f"{self.now:.3f}: members {node.generation} and {other.generation} both admit "
                    f"calls for {object_id}"
                )
        if activation.token < self.highest_token[object_id]:
            self.found.append(
                f"{self.now:.3f}: {object_id} runs under token {activation.token} "
                f"after {self.highest_token[object_id]}"
            )
        self.highest_token[object_id] = max(activation.token, self.highest_token[object_id])

    def answered(self, object_id: ObjectId, value: int, *, read: bool) -> None:
        answers = self.answers[object_id]
        last = answers[-1] if answers else 0
        if value < last + (not read):
            self.found.append(f"{self.now:.3f}: {object_id} answered {value} after {last}")
        if not read:
            answers.append(value)

    def findings(self) -> list[str]:
        found = list(self.found)
        for object_id, answers in self.answers.items():
            _, stored = self.state._objects.get(object_id, (0, StoredObject(0, {})))
            final = value_of(stored)
            if not len(answers) <= final <= len(answers) + self.unknown[object_id]:
                found.append(
                    f"{object_id}: {len(answers)} acknowledged, {self.unknown[object_id]} unknown, "
                    f"but it holds {final}"
                )
        return found
