"""The member table in plain Python.

It is the oracle of ``rio._core.gossip``, and the yardstick of its benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgpack

MAX_SUSPECTS = 8
CONDEMNED = 3


@dataclass(frozen=True, slots=True)
class Record:
    incarnation: int
    status: int = 1
    metadata: bytes = b""
    suspects: tuple[int, ...] = ()

    def join(self, other: Record) -> Record:
        if self.incarnation != other.incarnation:
            return max(self, other, key=lambda record: record.incarnation)
        status, metadata = max((self.status, self.metadata), (other.status, other.metadata))
        suspects = sorted({*self.suspects, *other.suspects})[:MAX_SUSPECTS]
        return Record(self.incarnation, status, metadata, tuple(suspects))


@dataclass(frozen=True, slots=True, order=True)
class Snapshot:
    version: int = 0
    generation_high: int = 0
    members: tuple[tuple[int, int], ...] = ()

    def admits(self, generation: int) -> bool:
        """Whether gossip about a member has a meaning.

        It has if the member is listed and has not ended, or if it is newer than this snapshot.
        """
        status = dict(self.members).get(generation)
        return status <= CONDEMNED if status is not None else generation > self.generation_high


@dataclass(frozen=True, slots=True)
class State:
    snapshot: Snapshot = Snapshot()
    records: dict[int, Record] = field(default_factory=dict)

    def join(self, other: State) -> State:
        snapshot = max(self.snapshot, other.snapshot)
        records = dict(self.records)
        for generation, record in other.records.items():
            records[generation] = (
                records[generation].join(record) if generation in records else record
            )
        return State(snapshot, records).filtered()

    def filtered(self) -> State:
        statuses = dict(self.snapshot.members)  # once, not for each member
        high = self.snapshot.generation_high
        kept = {
            generation: record
            for generation, record in self.records.items()
            if (statuses[generation] <= CONDEMNED if generation in statuses else generation > high)
        }
        return State(self.snapshot, kept)

    def encode(self) -> bytes:
        listed = [value for member in self.snapshot.members for value in member]
        records = [
            [generation, r.incarnation, r.status, r.metadata, r.suspects]
            for generation, r in sorted(self.records.items())
        ]
        encoded: bytes = msgpack.packb(
            [self.snapshot.version, self.snapshot.generation_high, listed, records]
        )
        return encoded

    @classmethod
    def decode(cls, state: bytes) -> State:
        version, generation_high, listed, records = msgpack.unpackb(state)
        snapshot = Snapshot(
            version, generation_high, tuple(zip(listed[::2], listed[1::2], strict=True))
        )
        return cls(snapshot, {generation: record(*fields) for generation, *fields in records})


def record(incarnation: int, status: int, metadata: bytes, suspects: list[Any]) -> Record:
    return Record(incarnation, status, metadata, tuple(suspects))
