"""The suite for storages that several processes share."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import ClassVar

from rio.contracts.membership import MembershipSnapshot, MemberStatus
from rio.identity import ObjectId
from rio.storage import Storage
from rio.testing._racer import Racer, run_race
from rio.testing._races import COUNTER, numbers_of
from rio.testing._shared_storage import SharedStorage
from rio.testing.conformance._members import register_in

JOINING, ACTIVE, DEAD = MemberStatus.JOINING, MemberStatus.ACTIVE, MemberStatus.DEAD


class SharedStorageTests:
    """What a storage of all three roles must do if several processes share it. The suite starts
    processes that want the same at the same moment, and kills one.

    Subclass it, and give the fixture ``shared``: a :class:`SharedStorage` that is empty, another
    one for each test.
    """

    objects: ClassVar[int] = 3000
    """Objects that all processes claim."""
    rounds: ClassVar[int] = 200
    """How often a race is run."""
    elections: ClassVar[int] = 200
    """Members whose status all processes want to move."""
    reads: ClassVar[int] = 10_000
    """Reads of a membership that another process changes all the time."""

    async def test_processes_that_prepare_at_once_all_succeed(self, shared: SharedStorage) -> None:
        assert sorted(await run_race(shared, "join", 1)) == sorted(
            set(await self._generations(shared))
        )

    async def test_no_object_is_owned_by_two_processes_and_none_by_nobody(
        self, shared: SharedStorage
    ) -> None:
        answers = await run_race(shared, "claim_all", self.objects)
        assert all(answer == answers[0] for answer in answers), (
            "two processes have different answers"
        )
        async with shared.open().placement as placement:
            owned = {number: await placement.owned_by(number) for number in range(1, 5)}
        assert (
            sum(len(set(objects)) for objects in owned.values())
            == len(set().union(*owned.values()))
            == self.objects
        )
        assert {int(object_id.id): number for number in owned for object_id in owned[number]} == {
            index: generation for index, (generation, _) in enumerate(answers[0])
        }
        assert len({token for _, token in answers[0]}) == self.objects

    async def test_tokens_increase_over_the_claims_of_all_processes(
        self, shared: SharedStorage
    ) -> None:
        answers = await run_race(shared, "claim_in_waves", self.rounds // 4)
        overlaps = [
            (max(earlier), min(later))
            for waves in answers
            for earlier, later in pairwise(waves)
            if max(earlier) >= min(later)
        ]
        assert overlaps == []
        tokens = [token for waves in answers for wave in waves for token in wave]
        assert len(set(tokens)) == len(tokens)

    async def test_of_processes_that_set_a_status_one_wins_each_time_and_all_learn_who(
        self, shared: SharedStorage
    ) -> None:
        members = await self._register(shared, self.elections)
        answers = await run_race(shared, "set_status", self.elections, processes=2)
        async with shared.open().membership as membership:
            snapshot = await membership.snapshot()
        for index, generation in enumerate(members):
            fates = [fate for answer in answers for fate in answer[index]]
            assert sum(applied for applied, _ in fates) == 1
            assert {status for _, status in fates} == {snapshot.status_of(generation)}

    async def test_no_vote_is_lost_among_processes(self, shared: SharedStorage) -> None:
        members = await self._register(shared, 40)
        assert await run_race(shared, "vote", len(members)) == [True] * 4
        async with shared.open().membership as membership:
            snapshot = await membership.snapshot()
        voters = [
            {vote.voter for vote in member.votes}
            for member in snapshot.members
            if member.generation in members[8:]
        ]
        assert voters == [set(members[:4])] * (len(members) - 8)

    async def test_no_renewal_is_lost_among_processes(self, shared: SharedStorage) -> None:
        [generation] = await self._register(shared, 1)
        assert await run_race(shared, "renew", self.rounds) == [self.rounds] * 4
        async with shared.open().membership as membership:
            member = (await membership.snapshot()).find(generation)
        assert member is not None
        assert member.lease_counter == 4 * self.rounds

    async def test_processes_that_take_turns_with_an_object_lose_nothing_that_was_acknowledged(
        self, shared: SharedStorage
    ) -> None:
        acknowledged = sum(await run_race(shared, "take_turns", self.rounds))
        async with shared.open() as storage:
            token = (
                await storage.placement.claim(COUNTER, 5, supersede=await self._token(storage))
            ).token
            stored = await storage.state.load_object(COUNTER, token)
        assert numbers_of(stored) == (stored.version, stored.version)
        assert stored.version == acknowledged > 0

    async def test_a_snapshot_is_never_torn_while_another_process_writes(
        self, shared: SharedStorage
    ) -> None:
        async with (
            Racer(shared, "move_in_step", 1, 1) as writer,
            shared.open().membership as membership,
        ):
            writer.send_line()
            earlier = await membership.snapshot()
            for _ in range(self.reads):
                snapshot = await membership.snapshot()
                self._check_pair(snapshot)
                assert snapshot.version >= earlier.version
                # A snapshot without members may come again under a newer version.
                if snapshot.version == earlier.version or snapshot.members:
                    assert (snapshot.version == earlier.version) is (
                        snapshot.members == earlier.members
                    )
                earlier = snapshot
            writer.send_line()
            assert await writer.answer() > 0

    async def test_a_killed_process_loses_nothing_that_was_acknowledged(
        self, shared: SharedStorage
    ) -> None:
        acknowledged: dict[str, int] = {}
        async with Racer(shared, "save_until_killed", 1, 32) as writer:
            writer.send_line()
            for _ in range(10 * self.rounds):
                id, version = await writer.answer()
                acknowledged[id] = version
            acknowledged.update(json.loads(line) for line in await writer.kill())
        async with shared.open().state as state:
            for id, version in acknowledged.items():
                found = await state.load_object(ObjectId("Saved", id), 1 << 60)
                assert found.version in (version, version + 1)
                assert numbers_of(found) == (found.version, found.version)

    async def _register(self, shared: SharedStorage, count: int) -> list[int]:
        async with shared.open().membership as membership:
            return [await register_in(membership, ACTIVE, f"h:{port}") for port in range(count)]

    async def _generations(self, shared: SharedStorage) -> list[int]:
        async with shared.open().membership as membership:
            return [member.generation for member in (await membership.snapshot()).members]

    @staticmethod
    async def _token(storage: Storage) -> int | None:
        placement = await storage.placement.lookup(COUNTER)
        return placement and placement.token

    @staticmethod
    def _check_pair(snapshot: MembershipSnapshot) -> None:
        """Check the two members that come, move and go: the left one is never behind and never two
        steps ahead.
        """
        status = {member.address: member.status for member in snapshot.members}
        left, right = status.get("left:1"), status.get("right:1")
        if left is None:
            assert right in (None, DEAD)
        else:
            assert left - (JOINING if right is None else right) in (0, 1)
