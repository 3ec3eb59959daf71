"""What callers, servers and the storage saw in one run, and the rules that it must keep."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from rio.contracts.membership import MembershipSnapshot
from rio.contracts.placement import Placement
from rio.errors import CallFailed, NotExecuted, OutcomeUnknown
from rio.identity import ObjectId
from rio.testing import Host, current_host
from rio.testing.virtual_time import true_time
from tests.cluster.processes.history import (
    Call,
    Outcome,
    Turn,
    counter,
    set_full,
    single_activation,
)
from tests.simulation.linearizable import Operation, linearizable

NO_HOST = Host("nowhere")
SLACK = 0.5
"""Seconds that a client may take to notice a deadline, and to ask whether the call has begun: four
round trips, or a little more.
"""


@dataclass
class NotedTurn:
    object: str
    token: int
    host: Host
    caller: str
    number: int
    began: float
    ended: float = math.inf


@dataclass
class History:
    """The record of one run. ``found`` lists what turned out to be wrong while it happened."""

    calls: list[Call] = field(default_factory=list)
    operations: dict[str, list[Operation]] = field(default_factory=lambda: defaultdict(list))
    """The operations on registers, by object."""
    turns: list[NotedTurn] = field(default_factory=list)
    stalls: dict[Host, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    owners: dict[int, int] = field(default_factory=dict)
    """Token to generation."""
    found: list[str] = field(default_factory=list)
    outcomes: Counter[str] = field(default_factory=Counter)
    fences: dict[tuple[ObjectId, str], int] = field(default_factory=dict)
    versions: dict[tuple[ObjectId, str], int] = field(default_factory=dict)
    statuses: dict[int, int] = field(default_factory=dict)
    takeovers: int = 0
    patience: dict[str, float] = field(default_factory=dict)
    """Caller to the seconds after which each of its calls has to have ended."""

    # --- what servers note ------------------------------------------------------------------------

    @contextmanager
    def turn(self, object: str, token: int, caller: str, number: int) -> Iterator[None]:
        turn = NotedTurn(object, token, current_host() or NO_HOST, caller, number, now())
        self.turns.append(turn)
        try:
            yield
        finally:
            turn.ended = now()

    # --- what callers note ------------------------------------------------------------------------

    async def call(
        self,
        kind: Literal["add", "get", "put", "read"],
        object: str,
        caller: str,
        number: int,
        reply: Awaitable[Any],
        element: int = 0,
    ) -> Outcome:
        """Await a reply. If the caller gives up, nobody knows whether the call ran."""
        began = now()
        outcome: Outcome = "unknown"
        answer: Any = None
        try:
            outcome, answer = await self._outcome(reply, caller, number)
        finally:
            value = (
                element
                if kind == "put"
                else answer and (answer.elements if kind == "read" else answer.value)
            )
            self.calls.append(
                Call(
                    kind=kind,
                    object=object,
                    began=began,
                    ended=now(),
                    outcome=outcome,
                    value=value,
                    caller=caller,
                )
            )
        return outcome

    async def operation(
        self,
        object: str,
        caller: str,
        number: int,
        reply: Awaitable[Any],
        expected: int = 0,
        new: int = 0,
    ) -> int | None:
        """Make a ``set`` of a register, or a ``get`` if there is no ``new`` value.

        Returns what the register holds, if that is known.
        """
        began = now()
        outcome, answer = await self._outcome(reply, caller, number)
        if outcome == "acknowledged":
            self.operations[object].append(Operation(began, now(), expected, new, answer.value))
            return int(answer.value)
        if outcome == "unknown" and new:
            self.operations[object].append(Operation(began, math.inf, expected, new, None))
        return None

    async def _outcome(
        self, reply: Awaitable[Any], caller: str, number: int
    ) -> tuple[Outcome, Any]:
        try:
            answer = await reply
        except NotExecuted as error:
            self._count(error)
            return "not executed", None
        except (OutcomeUnknown, CallFailed) as error:
            self._count(error)
            return "unknown", None
        self.outcomes["acknowledged"] += 1
        if (answer.caller, answer.number) != (caller, number):
            self.found.append(
                f"{caller} got the answer to number {answer.number} of {answer.caller} "
                f"for its own number {number}"
            )
        return "acknowledged", answer

    def _count(self, error: BaseException) -> None:
        self.outcomes[type(error).__name__] += 1

    # --- what the storage notes -------------------------------------------------------------------

    def claimed(
        self, object_id: ObjectId, before: Placement | None, after: Placement, owner_ended: bool
    ) -> None:
        if before == after:
            return
        if before is not None and before.generation != after.generation:
            self.takeovers += 1
            if not owner_ended:
                self.found.append(
                    f"member {after.generation} took {object_id} over from member "
                    f"{before.generation}, which has not ended"
                )
        highest = max(self.owners, default=0)
        if after.token <= highest:
            self.found.append(f"token {after.token} of {object_id} came after {highest}")
        self.owners[after.token] = after.generation

    def loaded(self, object_id: ObjectId, token: int) -> None:
        self.fences[object_id] = max(token, self.fences.get(object_id, 0))

    def saved(self, object_id: ObjectId, token: int, version: int) -> None:
        fence, before = self.fences.get(object_id, 0), self.versions.get(object_id, 0)
        if token < fence:
            self.found.append(
                f"{object_id} was saved under token {token} after token {fence} had read it"
            )
        if version != before + 1:
            self.found.append(f"version {version} of {object_id} was saved after version {before}")
        self.versions[object_id] = version

    def members(self, snapshot: MembershipSnapshot) -> None:
        for member in snapshot.members:
            before = self.statuses.get(member.generation, 0)
            if member.status < before:
                self.found.append(
                    f"the status of member {member.generation} moved back from {before} "
                    f"to {member.status:d}"
                )
            self.statuses[member.generation] = max(before, member.status)

    # --- what must be true ------------------------------------------------------------------------

    def findings(self, final: dict[str, Any], *, no_overlap: bool, good_clocks: bool) -> list[str]:
        """What is wrong with this run.

        ``final``: what each object holds in the end. ``no_overlap``: turns must not go on after
        their server has lost its lease. Without ``good_clocks`` an object may be admitted twice, so
        reads may be stale; what was saved must stay saved.
        """
        found = list(self.found)
        calls = defaultdict(list)
        for call in self.calls:
            if good_clocks or call.kind in ("add", "put"):
                calls[call.object].append(call)
        for object, of_object in sorted(calls.items()):
            if object.startswith("Counter/"):
                found += [
                    f"{object}: {finding.text}"
                    for finding in counter(of_object, final.get(object, 0))
                ]
            else:
                last = Call(
                    kind="read",
                    object=object,
                    began=math.inf,
                    ended=math.inf,
                    outcome="acknowledged",
                    value=final.get(object, []),
                )
                found += [f"{object}: {finding.text}" for finding in set_full([*of_object, last])]
        found += self._repeated()
        found += self._late()
        if not good_clocks:
            return found
        for object, operations in sorted(self.operations.items()):
            if not linearizable(operations, 0):
                found.append(
                    f"{object}: no order of its {len(operations)} operations explains their answers"
                )
        found += [finding.text for finding in single_activation(self._admitted())]
        if no_overlap:
            found += [
                finding.text
                for finding in single_activation(
                    itertools.chain.from_iterable(map(self._running, self.turns))
                )
            ]
        return found

    def _admitted(self) -> Iterable[Turn]:
        """The moments at which turns began."""
        return (self._seen(turn, turn.began, turn.began) for turn in self.turns)

    def _running(self, turn: NotedTurn) -> Iterable[Turn]:
        """The times at which a turn ran, without those at which its process was stopped."""
        since = turn.began
        for began, ended in self.stalls.get(turn.host, ()):
            if began <= turn.ended and since <= ended:
                if since < began:
                    yield self._seen(turn, since, began)
                since = max(since, ended)
        if since < turn.ended or since == turn.began:
            yield self._seen(turn, since, turn.ended)

    def _seen(self, turn: NotedTurn, began: float, ended: float) -> Turn:
        generation = self.owners.get(turn.token, 0)
        return Turn(
            object=turn.object, generation=generation, token=turn.token, began=began, ended=ended
        )

    def _late(self) -> Sequence[str]:
        """Calls that ended after their deadline."""
        took = ((call, call.ended - call.began) for call in self.calls)
        late = (
            (call, seconds)
            for call, seconds in took
            if seconds > self.patience.get(call.caller, math.inf) + SLACK
        )
        return [
            f"{call.object}: a call ({call.kind}) of {call.caller} ended after {seconds:.3f} s"
            for call, seconds in late
        ]

    def _repeated(self) -> Sequence[str]:
        """Messages that must not be repeated, and were."""
        handled = Counter(
            (turn.object, turn.caller, turn.number) for turn in self.turns if turn.caller
        )
        repeated = ((message, times) for message, times in handled.items() if times > 1)
        return [
            f"{object} handled number {number} of {caller} {times} times"
            for (object, caller, number), times in repeated
        ]


def now() -> float:
    return true_time(asyncio.get_running_loop())
