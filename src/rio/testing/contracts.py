"""The contracts of storage as test suites, for whoever writes a back end: subclass one, and give
the fixture it asks for.

::

    import pytest
    from rio.testing.contracts import StateStorageContract

    class TestMyState(StateStorageContract):
        @pytest.fixture
        async def state(self):
            async with MyState(...) as state:      # prepared, and holding nothing
                yield state

==================================  ==============  ====================================================
suite                               fixture         yields
==================================  ==============  ====================================================
:class:`MembershipStorageContract`  ``membership``  a :class:`rio.contracts.membership.MembershipStorage`
:class:`ObjectPlacementContract`    ``placement``   a :class:`rio.contracts.placement.ObjectPlacement`
:class:`StateStorageContract`       ``state``       a :class:`rio.contracts.state.StateStorage`
:class:`SharedStorageContract`      ``shared``      a :class:`rio.testing.races.Shared`: how other processes open the same
==================================  ==============  ====================================================

They need pytest and pytest-asyncio, with ``asyncio_mode = "auto"``. ``rounds`` says how often a
race is run. What the suites cannot do is take a server away or fill its disk: that such things end
in ``StorageUnavailable``, and never in "not found", is for the back end's own tests to show.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from itertools import pairwise
from typing import ClassVar

import pytest

from rio.contracts.membership import (
    MAX_VOTES,
    MembershipSnapshot,
    MembershipStorage,
    MemberStatus,
    StatusChange,
    Vote,
)
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage, StoredState
from rio.errors import StateNotFound, StorageClosed, Superseded
from rio.identity import MAX_ID_BYTES, MAX_TYPE_NAME_BYTES, ObjectId
from rio.storage import Storage
from rio.testing import races
from rio.testing.races import Racer, Shared

JOINING, ACTIVE, DRAINING, CONDEMNED, LEFT, DEAD = MemberStatus
FORWARD = [(before, after) for before in MemberStatus for after in MemberStatus if before < after]
NOT_FORWARD = [
    (before, after) for before in MemberStatus for after in MemberStatus if before >= after
]

LOOKALIKES = [
    ObjectId("a:b", "c"),
    ObjectId("a", "b:c"),
    ObjectId("a/b", "c"),
    ObjectId("a", "b/c"),
    ObjectId("a", "c"),
    ObjectId("A", "c"),
    ObjectId("a", "C"),
    ObjectId("a", "c "),
    ObjectId("a", "c\0"),
    ObjectId("a", "c\0d"),
    ObjectId("a\0", "c"),
    ObjectId("a", "\0"),
    ObjectId("a", "7"),
    ObjectId("a", "07"),
    ObjectId("a", "7.0"),
    ObjectId("a", "%"),
    ObjectId("a", "_"),
    ObjectId("a", "'; DROP TABLE rio_placement; --"),
    ObjectId("a", "é"),
    ObjectId("a", "e\u0301"),
    ObjectId("a", "\N{GRINNING FACE}"),
    ObjectId("a", "[::1]:80"),
    ObjectId("t" * MAX_TYPE_NAME_BYTES, "i" * MAX_ID_BYTES),
    ObjectId("t" * MAX_TYPE_NAME_BYTES, "i" * (MAX_ID_BYTES - 1)),
    ObjectId("t" * MAX_TYPE_NAME_BYTES, "é" * (MAX_ID_BYTES // 2)),
]
"""Identities that a careless key would take for one another."""

ADA = ObjectId("Account", "ada")


async def member_in(
    membership: MembershipStorage, status: MemberStatus, address: str = "h:1"
) -> int:
    """Register a member and bring it into a status; returns its generation."""
    generation = (await membership.register(address)).generation
    if status != JOINING:
        assert (await membership.set_status(generation, JOINING, status)).applied
    return generation


class MembershipStorageContract:
    """What every :class:`MembershipStorage` must do. Give the fixture ``membership``."""

    rounds: ClassVar[int] = 20

    # register

    async def test_an_empty_storage_has_no_members(self, membership: MembershipStorage) -> None:
        assert await membership.snapshot() == MembershipSnapshot(0, 0, ())

    async def test_a_registered_member_is_joining_and_in_the_snapshot_it_is_told(
        self, membership: MembershipStorage
    ) -> None:
        generation, snapshot = await membership.register("[::1]:4000", b"\x00zone=1")
        member = snapshot.find(generation)
        assert member is not None
        assert (member.address, member.status, member.lease_counter, member.votes) == (
            "[::1]:4000",
            JOINING,
            0,
            (),
        )
        assert member.metadata == b"\x00zone=1"
        assert snapshot == await membership.snapshot()
        assert snapshot.generation_high == generation

    async def test_metadata_beyond_128_bytes_is_refused(
        self, membership: MembershipStorage
    ) -> None:
        await membership.register("h:1", b"x" * 128)
        with pytest.raises(ValueError, match="128"):
            await membership.register("h:2", b"x" * 129)
        assert len((await membership.snapshot()).members) == 1

    async def test_registrations_at_once_get_different_generations(
        self, membership: MembershipStorage
    ) -> None:
        registered = await asyncio.gather(
            *(membership.register(f"h:{port}") for port in range(1, 33))
        )
        assert len({generation for generation, _ in registered}) == 32
        snapshot = await membership.snapshot()
        assert snapshot.generation_high == max(generation for generation, _ in registered)
        assert {member.address for member in snapshot.members} == {
            f"h:{port}" for port in range(1, 33)
        }

    async def test_a_generation_is_never_issued_again(self, membership: MembershipStorage) -> None:
        first = await member_in(membership, DEAD)
        assert await membership.purge(first)
        assert (await membership.register("h:1")).generation > first

    @pytest.mark.parametrize("status", [JOINING, ACTIVE, DRAINING, CONDEMNED])
    async def test_registering_an_address_kills_its_older_member(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        older = await member_in(membership, status)
        neighbour = await member_in(membership, ACTIVE, "h:11")
        before = (await membership.snapshot()).version
        younger, snapshot = await membership.register("h:1")
        assert snapshot.status_of(older) == DEAD
        assert snapshot.status_of(younger) == JOINING
        assert snapshot.status_of(neighbour) == ACTIVE
        assert snapshot.version > before

    # renew

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_only_a_member_that_may_serve_can_renew(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        generation = await member_in(membership, status)
        before = await membership.snapshot()
        assert await membership.renew(generation) is (status <= DRAINING)
        after = await membership.snapshot()
        assert self._counter(after, generation) == self._counter(before, generation) + (
            status <= DRAINING
        )
        assert after.version == before.version

    async def test_a_member_that_never_was_cannot_renew(
        self, membership: MembershipStorage
    ) -> None:
        assert await membership.renew(1) is False

    async def test_no_renewal_is_lost_among_many_at_once(
        self, membership: MembershipStorage
    ) -> None:
        generation = await member_in(membership, ACTIVE)
        assert all(await asyncio.gather(*(membership.renew(generation) for _ in range(50))))
        assert self._counter(await membership.snapshot(), generation) == 50

    # set_status

    @pytest.mark.parametrize(("before", "after"), FORWARD)
    async def test_a_status_moves_forward(
        self, membership: MembershipStorage, before: MemberStatus, after: MemberStatus
    ) -> None:
        generation = await member_in(membership, before)
        version = (await membership.snapshot()).version
        change = await membership.set_status(generation, before, after)
        snapshot = await membership.snapshot()
        assert change == StatusChange(True, snapshot.find(generation))
        assert snapshot.status_of(generation) == after
        assert snapshot.version > version

    @pytest.mark.parametrize(("before", "after"), NOT_FORWARD)
    async def test_a_status_never_moves_back(
        self, membership: MembershipStorage, before: MemberStatus, after: MemberStatus
    ) -> None:
        generation = await member_in(membership, before)
        with pytest.raises(ValueError, match="forward"):
            await membership.set_status(generation, before, after)
        assert (await membership.snapshot()).status_of(generation) == before

    async def test_a_status_that_is_not_as_expected_stays_and_is_told(
        self, membership: MembershipStorage
    ) -> None:
        generation = await member_in(membership, DRAINING)
        before = await membership.snapshot()
        assert await membership.set_status(generation, ACTIVE, DEAD) == StatusChange(
            False, before.find(generation)
        )
        assert await membership.snapshot() == before

    async def test_nobody_dies_who_has_renewed_since_he_was_looked_at(
        self, membership: MembershipStorage
    ) -> None:
        generation = await member_in(membership, ACTIVE)
        await membership.renew(generation)
        assert not (
            await membership.set_status(generation, ACTIVE, DEAD, expected_counter=0)
        ).applied
        assert (await membership.snapshot()).status_of(generation) == ACTIVE
        assert (await membership.set_status(generation, ACTIVE, DEAD, expected_counter=1)).applied

    async def test_a_member_that_never_was_has_no_status_to_set(
        self, membership: MembershipStorage
    ) -> None:
        assert await membership.set_status(1, ACTIVE, DEAD) == StatusChange(False, None)

    async def test_of_many_who_set_a_status_one_wins_and_all_learn_the_outcome(
        self, membership: MembershipStorage
    ) -> None:
        for port in range(self.rounds):
            generation = await member_in(membership, ACTIVE, f"h:{port}")
            wanted = [status for _ in range(8) for status in (DRAINING, CONDEMNED, LEFT, DEAD)]
            changes = await asyncio.gather(
                *(membership.set_status(generation, ACTIVE, status) for status in wanted)
            )
            [winner] = [
                status for status, change in zip(wanted, changes, strict=True) if change.applied
            ]
            assert {change.member.status for change in changes if change.member} == {winner}
            assert (await membership.snapshot()).status_of(generation) == winner

    # vote

    async def test_a_vote_is_kept_and_does_not_raise_the_version(
        self, membership: MembershipStorage
    ) -> None:
        voter, target = (
            await member_in(membership, ACTIVE, "h:1"),
            await member_in(membership, ACTIVE, "h:2"),
        )
        version = (await membership.snapshot()).version
        change = await membership.vote(target, Vote(voter, 12.5))
        snapshot = await membership.snapshot()
        assert change == StatusChange(True, snapshot.find(target))
        assert change.member is not None
        assert change.member.votes == (Vote(voter, 12.5),)
        assert snapshot.version == version

    async def test_a_voter_has_one_vote_and_the_later_one_counts(
        self, membership: MembershipStorage
    ) -> None:
        voters = [await member_in(membership, ACTIVE, f"h:{port}") for port in range(2)]
        target = await member_in(membership, ACTIVE, "h:9")
        votes = [Vote(voters[0], 5.0), Vote(voters[1], 1.0), Vote(voters[0], 2.0)]
        changes = [await membership.vote(target, vote) for vote in votes]
        assert changes[-1].member is not None
        assert changes[-1].member.votes == (votes[1], votes[2])

    async def test_the_vote_that_came_first_goes_when_there_are_more_than_eight(
        self, membership: MembershipStorage
    ) -> None:
        voters = [await member_in(membership, ACTIVE, f"h:{port}") for port in range(MAX_VOTES + 2)]
        target = await member_in(membership, ACTIVE, "t:1")
        changes = [
            await membership.vote(target, Vote(voter, -float(at)))
            for at, voter in enumerate(voters)
        ]
        assert changes[-1].member is not None
        assert [vote.voter for vote in changes[-1].member.votes] == voters[2:]

    async def test_votes_at_once_are_all_counted(self, membership: MembershipStorage) -> None:
        voters = [await member_in(membership, ACTIVE, f"h:{port}") for port in range(MAX_VOTES)]
        target = await member_in(membership, ACTIVE, "t:1")
        await asyncio.gather(*(membership.vote(target, Vote(voter, 1.0)) for voter in voters))
        member = (await membership.snapshot()).find(target)
        assert member is not None
        assert {vote.voter for vote in member.votes} == set(voters)

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_only_an_active_member_votes(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        voter, target = (
            await member_in(membership, status, "h:1"),
            await member_in(membership, ACTIVE, "h:2"),
        )
        assert (await membership.vote(target, Vote(voter, 1.0))).applied is (status == ACTIVE)

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_votes_are_cast_on_members_that_are_not_gone(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        voter, target = (
            await member_in(membership, ACTIVE, "h:1"),
            await member_in(membership, status, "h:2"),
        )
        before = (await membership.snapshot()).find(target)
        change = await membership.vote(target, Vote(voter, 1.0))
        assert change.applied is (not status.terminal)
        assert change.applied or change.member == before

    async def test_votes_of_or_on_members_that_never_were_change_nothing(
        self, membership: MembershipStorage
    ) -> None:
        generation = await member_in(membership, ACTIVE)
        before = await membership.snapshot()
        assert await membership.vote(generation, Vote(generation + 1, 1.0)) == StatusChange(
            False, before.find(generation)
        )
        assert await membership.vote(generation + 1, Vote(generation, 1.0)) == StatusChange(
            False, None
        )
        assert await membership.snapshot() == before

    # purge

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_only_a_member_that_is_gone_can_be_purged(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        generation = await member_in(membership, status)
        assert await membership.purge(generation) is status.terminal
        snapshot = await membership.snapshot()
        assert (snapshot.find(generation) is None) is status.terminal
        assert snapshot.status_of(generation) == (DEAD if status.terminal else status)

    async def test_a_purged_member_stays_dead_to_every_call(
        self, membership: MembershipStorage
    ) -> None:
        voter, generation = (
            await member_in(membership, ACTIVE, "h:1"),
            await member_in(membership, DEAD, "h:2"),
        )
        assert await membership.purge(generation)
        before = await membership.snapshot()
        assert await membership.purge(generation) is False
        assert await membership.renew(generation) is False
        assert await membership.set_status(generation, JOINING, ACTIVE) == StatusChange(False, None)
        assert await membership.vote(generation, Vote(voter, 1.0)) == StatusChange(False, None)
        assert await membership.snapshot() == before

    # snapshot and closing

    async def test_a_snapshot_is_never_torn(self, membership: MembershipStorage) -> None:
        left, right = [await member_in(membership, JOINING, f"h:{port}") for port in range(2)]
        writing = asyncio.create_task(self._move_in_step(membership, left, right))
        snapshots = [await membership.snapshot()]
        while not writing.done():
            await asyncio.sleep(0)  # a storage in memory may never wait
            snapshots.append(await membership.snapshot())
        await writing
        assert all(
            self._status(snapshot, left) - self._status(snapshot, right) in (0, 1)
            for snapshot in snapshots
        )
        for earlier, later in pairwise(snapshots):
            assert later.version >= earlier.version
            assert (later.version == earlier.version) is (
                self._statuses(later) == self._statuses(earlier)
            )

    async def test_a_storage_that_is_not_open_says_so(self, membership: MembershipStorage) -> None:
        await membership.close()
        await membership.close()
        with pytest.raises(StorageClosed):
            await membership.snapshot()
        with pytest.raises(StorageClosed):
            await membership.register("h:1")

    async def _move_in_step(self, membership: MembershipStorage, left: int, right: int) -> None:
        for before, after in pairwise(MemberStatus):
            for generation in (left, right):
                assert (await membership.set_status(generation, before, after)).applied
            await asyncio.gather(
                *(membership.register(f"busy:{port}") for port in range(self.rounds))
            )

    @staticmethod
    def _counter(snapshot: MembershipSnapshot, generation: int) -> int:
        member = snapshot.find(generation)
        assert member is not None
        return member.lease_counter

    @staticmethod
    def _status(snapshot: MembershipSnapshot, generation: int) -> int:
        status = snapshot.status_of(generation)
        assert status is not None
        return status

    @staticmethod
    def _statuses(snapshot: MembershipSnapshot) -> dict[int, MemberStatus]:
        return {member.generation: member.status for member in snapshot.members}


class ObjectPlacementContract:
    """What every :class:`ObjectPlacement` must do. Give the fixture ``placement``."""

    rounds: ClassVar[int] = 20

    async def test_an_object_that_was_never_claimed_has_no_placement(
        self, placement: ObjectPlacement
    ) -> None:
        assert await placement.lookup(ADA) is None
        assert await placement.owned_by(1) == []

    async def test_the_first_claim_wins_and_is_what_others_see(
        self, placement: ObjectPlacement
    ) -> None:
        claimed = await placement.claim(ADA, 1)
        assert claimed.generation == 1
        assert await placement.lookup(ADA) == claimed
        assert await placement.owned_by(1) == [ADA]

    async def test_a_claim_of_an_owned_object_is_refused_and_names_the_owner(
        self, placement: ObjectPlacement
    ) -> None:
        claimed = await placement.claim(ADA, 1)
        assert await placement.claim(ADA, 2) == claimed
        assert await placement.lookup(ADA) == claimed
        assert await placement.owned_by(2) == []

    async def test_the_owner_can_claim_again_and_gets_a_larger_token(
        self, placement: ObjectPlacement
    ) -> None:
        first = await placement.claim(ADA, 1)
        second = await placement.claim(ADA, 1)
        assert second.generation == 1
        assert second.token > first.token
        assert await placement.lookup(ADA) == second

    async def test_a_claim_whose_answer_was_lost_can_be_repeated(
        self, placement: ObjectPlacement
    ) -> None:
        for number in range(self.rounds):
            object_id = ObjectId("Lost", str(number))
            lost = asyncio.create_task(placement.claim(object_id, 1))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            lost.cancel()
            repeated = await placement.claim(object_id, 1)
            assert repeated.generation == 1
            assert await placement.lookup(object_id) == repeated
            assert (await placement.claim(object_id, 2)) == repeated

    async def test_a_claim_that_names_the_owners_token_takes_over(
        self, placement: ObjectPlacement
    ) -> None:
        dead = await placement.claim(ADA, 1)
        taken = await placement.claim(ADA, 2, supersede=dead.token)
        assert taken.generation == 2
        assert taken.token > dead.token
        assert await placement.owned_by(1) == []
        assert await placement.owned_by(2) == [ADA]

    async def test_a_claim_that_names_an_older_token_is_refused(
        self, placement: ObjectPlacement
    ) -> None:
        old = await placement.claim(ADA, 1)
        renewed = await placement.claim(ADA, 1)
        assert await placement.claim(ADA, 2, supersede=old.token) == renewed
        assert await placement.claim(ADA, 2, supersede=renewed.token + 1) == renewed

    async def test_of_many_who_take_over_one_wins_and_all_learn_who(
        self, placement: ObjectPlacement
    ) -> None:
        for number in range(self.rounds):
            object_id = ObjectId("Race", str(number))
            dead = await placement.claim(object_id, 1)
            answers = await asyncio.gather(
                *(
                    placement.claim(object_id, claimant, supersede=dead.token)
                    for claimant in range(2, 18)
                )
            )
            assert len(set(answers)) == 1
            assert await placement.lookup(object_id) == answers[0]
            assert answers[0].generation != 1

    async def test_of_many_who_claim_each_object_has_one_owner(
        self, placement: ObjectPlacement
    ) -> None:
        objects = [ObjectId("Race", str(number)) for number in range(self.rounds)]
        answers = await asyncio.gather(
            *(
                placement.claim(object_id, claimant)
                for object_id in objects
                for claimant in range(1, 9)
            )
        )
        assert len(set(answers)) == len(objects)
        owned = [
            object_id
            for claimant in range(1, 9)
            for object_id in await placement.owned_by(claimant)
        ]
        assert sorted(owned) == sorted(objects)

    async def test_a_released_object_is_free_and_its_next_token_is_larger(
        self, placement: ObjectPlacement
    ) -> None:
        claimed = await placement.claim(ADA, 1)
        assert await placement.release(ADA, claimed.token) is True
        released = await placement.lookup(ADA)
        assert released is not None
        assert released.generation is None
        assert await placement.owned_by(1) == []
        assert (await placement.claim(ADA, 2)).token > claimed.token

    async def test_only_the_token_that_holds_an_object_releases_it(
        self, placement: ObjectPlacement
    ) -> None:
        old = await placement.claim(ADA, 1)
        held = await placement.claim(ADA, 1)
        assert await placement.release(ADA, old.token) is False
        assert await placement.lookup(ADA) == held
        assert await placement.release(ADA, held.token) is True
        assert await placement.release(ADA, held.token) is False
        assert await placement.release(ObjectId("Account", "bob"), held.token) is False

    async def test_tokens_strictly_increase_over_all_objects(
        self, placement: ObjectPlacement
    ) -> None:
        tokens = [
            (await placement.claim(ObjectId("Token", str(number % 7)), 1)).token
            for number in range(5 * self.rounds)
        ]
        assert tokens == sorted(set(tokens))
        for _ in range(5 * self.rounds):
            at_once = await asyncio.gather(
                *(placement.claim(ObjectId("Token", str(number)), 1) for number in range(100))
            )
            wave = sorted({claimed.token for claimed in at_once})
            assert len(wave) == 100
            assert wave[0] > tokens[-1]
            tokens = wave

    async def test_identities_never_meet(self, placement: ObjectPlacement) -> None:
        claimed = [
            await placement.claim(object_id, number)
            for number, object_id in enumerate(LOOKALIKES, 1)
        ]
        assert [claim.generation for claim in claimed] == list(range(1, len(LOOKALIKES) + 1))
        assert [await placement.lookup(object_id) for object_id in LOOKALIKES] == claimed
        assert [
            list(await placement.owned_by(number)) for number in range(1, len(LOOKALIKES) + 1)
        ] == [[one] for one in LOOKALIKES]

    async def test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_placed(
        self, placement: ObjectPlacement
    ) -> None:
        await placement.close()
        await placement.close()
        with pytest.raises(StorageClosed):
            await placement.lookup(ADA)
        with pytest.raises(StorageClosed):
            await placement.claim(ADA, 1)


class StateStorageContract:
    """What every :class:`StateStorage` must do. Give the fixture ``state``."""

    rounds: ClassVar[int] = 20

    async def fence(self, state: StateStorage, token: int, object_id: ObjectId = ADA) -> None:
        """Lay a fence where nothing is stored yet."""
        with pytest.raises(StateNotFound):
            await state.load_and_fence(object_id, "s", token)

    async def test_what_was_saved_is_loaded(self, state: StateStorage) -> None:
        await self.fence(state, 1)
        assert await state.save(ADA, "s", 1, 0, b"one") == 1
        assert await state.save(ADA, "s", 1, 1, b"\x00\xff") == 2
        assert await state.load_and_fence(ADA, "s", 1) == StoredState(2, b"\x00\xff")
        assert await state.load_and_fence(ADA, "s", 2) == StoredState(2, b"\x00\xff")

    @pytest.mark.parametrize(
        "data", [b"", b"\x00" * 1000, bytes(range(256)) * 4096], ids=["empty", "zeros", "1 MiB"]
    )
    async def test_any_bytes_come_back_as_they_were(self, state: StateStorage, data: bytes) -> None:
        await self.fence(state, 1)
        await state.save(ADA, "s", 1, 0, data)
        assert await state.load_and_fence(ADA, "s", 1) == StoredState(1, data)

    async def test_where_nothing_was_saved_it_is_not_found_time_after_time(
        self, state: StateStorage
    ) -> None:
        for token in (1, 1, 2):
            await self.fence(state, token)

    async def test_a_fence_laid_on_nothing_refuses_older_tokens(self, state: StateStorage) -> None:
        await self.fence(state, 2)
        with pytest.raises(Superseded):
            await state.save(ADA, "s", 1, 0, b"late")
        with pytest.raises(Superseded):
            await state.load_and_fence(ADA, "s", 1)
        await self.fence(state, 2)

    async def test_a_late_save_after_a_newer_load_is_refused(self, state: StateStorage) -> None:
        await self.fence(state, 1)
        await state.save(ADA, "s", 1, 0, b"old")
        assert await state.load_and_fence(ADA, "s", 2) == StoredState(1, b"old")
        with pytest.raises(Superseded):
            await state.save(ADA, "s", 1, 1, b"late")
        assert await state.save(ADA, "s", 2, 1, b"new") == 2
        with pytest.raises(Superseded):
            await state.load_and_fence(ADA, "s", 1)
        assert await state.load_and_fence(ADA, "s", 2) == StoredState(2, b"new")

    @pytest.mark.parametrize(("token", "version"), [(2, 1), (4, 1), (3, 0), (3, 2), (2, 0)])
    async def test_a_save_with_another_token_or_version_writes_nothing(
        self, state: StateStorage, token: int, version: int
    ) -> None:
        await self.fence(state, 3)
        await state.save(ADA, "s", 3, 0, b"good")
        with pytest.raises(Superseded):
            await state.save(ADA, "s", token, version, b"bad")
        assert await state.load_and_fence(ADA, "s", 3) == StoredState(1, b"good")

    async def test_a_save_without_a_fence_is_refused(self, state: StateStorage) -> None:
        with pytest.raises(Superseded):
            await state.save(ADA, "s", 1, 0, b"blind")
        await self.fence(state, 1)

    async def test_of_many_saves_of_one_version_one_wins(self, state: StateStorage) -> None:
        await self.fence(state, 1)
        for version in range(self.rounds):
            writers = [state.save(ADA, "s", 1, version, bytes([writer])) for writer in range(8)]
            answers = await asyncio.gather(*writers, return_exceptions=True)
            [winner] = [writer for writer, answer in enumerate(answers) if answer == version + 1]
            assert sum(isinstance(answer, Superseded) for answer in answers) == 7
            assert await state.load_and_fence(ADA, "s", 1) == StoredState(
                version + 1, bytes([winner])
            )

    async def test_a_save_and_a_newer_fence_at_once_never_lose_what_was_acknowledged(
        self, state: StateStorage
    ) -> None:
        for number in range(self.rounds):
            object_id = ObjectId("Race", str(number))
            await self.fence(state, 1, object_id)
            both = [
                state.save(object_id, "s", 1, 0, b"saved"),
                state.load_and_fence(object_id, "s", 2),
            ]
            saved, loaded = await asyncio.gather(
                *(both if number % 2 else reversed(both)), return_exceptions=True
            )
            if number % 2 == 0:
                saved, loaded = loaded, saved
            if saved == 1:
                assert loaded == StoredState(1, b"saved")
            else:
                assert (type(saved), type(loaded)) == (Superseded, StateNotFound)

    async def test_identities_and_names_never_meet(self, state: StateStorage) -> None:
        keys = list(self._keys())
        for number, (object_id, name) in enumerate(keys):
            with pytest.raises(StateNotFound):
                await state.load_and_fence(object_id, name, 1)
            await state.save(object_id, name, 1, 0, str(number).encode())
        for number, (object_id, name) in enumerate(keys):
            assert await state.load_and_fence(object_id, name, 1) == StoredState(
                1, str(number).encode()
            )

    async def test_a_cancelled_save_happened_wholly_or_not_at_all(
        self, state: StateStorage
    ) -> None:
        await self.fence(state, 1)
        stored = StoredState(0, b"")
        for number in range(self.rounds):
            saving = asyncio.create_task(
                state.save(ADA, "s", 1, stored.version, data := str(number).encode())
            )
            for _ in range(number % 5 + 1):
                await asyncio.sleep(0)
            saving.cancel()
            await asyncio.wait([saving])
            possible = {stored, StoredState(stored.version + 1, data)}
            stored = await self._stored(state)
            assert stored in possible

    async def test_a_storage_that_is_not_open_says_so_and_not_that_nothing_is_stored(
        self, state: StateStorage
    ) -> None:
        await state.close()
        await state.close()
        with pytest.raises(StorageClosed):
            await state.load_and_fence(ADA, "s", 1)
        with pytest.raises(StorageClosed):
            await state.save(ADA, "s", 1, 0, b"")

    @staticmethod
    async def _stored(state: StateStorage) -> StoredState:
        try:
            return await state.load_and_fence(ADA, "s", 1)
        except StateNotFound:
            return StoredState(0, b"")

    @staticmethod
    def _keys() -> Iterator[tuple[ObjectId, str]]:
        for object_id in LOOKALIKES:
            yield object_id, "s"
        yield ObjectId("a", "b"), "c"
        yield ObjectId("a", "b:c"), "c"
        yield ObjectId("a", "b"), "c:c"
        yield ObjectId("a", "c"), "S"
        yield ObjectId("a", "c"), "s\0"


class SharedStorageContract:
    """What a storage that several processes share must do besides.

    Give the fixture ``shared``, over data that are empty.
    """

    objects: ClassVar[int] = 3000
    """How many the processes want."""
    rounds: ClassVar[int] = 200
    elections: ClassVar[int] = 200
    """How many members all processes want to move."""
    reads: ClassVar[int] = 10_000
    """Of a membership that changes all the time."""

    async def test_processes_that_prepare_at_once_all_succeed(self, shared: Shared) -> None:
        assert sorted(await races.run(shared, "join", 1)) == sorted(
            set(await self._generations(shared))
        )

    async def test_no_object_is_owned_by_two_processes_and_none_by_nobody(
        self, shared: Shared
    ) -> None:
        answers = await races.run(shared, "claim_all", self.objects)
        assert all(answer == answers[0] for answer in answers), (
            "a claimant was told something else than another"
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

    async def test_tokens_increase_over_the_claims_of_all_processes(self, shared: Shared) -> None:
        answers = await races.run(shared, "claim_in_waves", self.rounds // 4)
        assert all(
            max(earlier) < min(later) for waves in answers for earlier, later in pairwise(waves)
        )
        tokens = [token for waves in answers for wave in waves for token in wave]
        assert len(set(tokens)) == len(tokens)

    async def test_of_processes_that_set_a_status_one_wins_each_time_and_all_learn_who(
        self, shared: Shared
    ) -> None:
        members = await self._register(shared, self.elections)
        answers = await races.run(shared, "set_status", self.elections, processes=2)
        async with shared.open().membership as membership:
            snapshot = await membership.snapshot()
        for index, generation in enumerate(members):
            told = [fate for answer in answers for fate in answer[index]]
            assert sum(applied for applied, _ in told) == 1
            assert {status for _, status in told} == {snapshot.status_of(generation)}

    async def test_no_vote_is_lost_among_processes(self, shared: Shared) -> None:
        members = await self._register(shared, 40)
        assert await races.run(shared, "vote", len(members)) == [True] * 4
        async with shared.open().membership as membership:
            snapshot = await membership.snapshot()
        voters = [
            {vote.voter for vote in member.votes}
            for member in snapshot.members
            if member.generation in members[8:]
        ]
        assert voters == [set(members[:4])] * (len(members) - 8)

    async def test_no_renewal_is_lost_among_processes(self, shared: Shared) -> None:
        [generation] = await self._register(shared, 1)
        assert await races.run(shared, "renew", self.rounds) == [self.rounds] * 4
        async with shared.open().membership as membership:
            member = (await membership.snapshot()).find(generation)
        assert member is not None
        assert member.lease_counter == 4 * self.rounds

    async def test_processes_that_take_turns_with_an_object_lose_nothing_that_was_acknowledged(
        self, shared: Shared
    ) -> None:
        acknowledged = sum(await races.run(shared, "take_turns", self.rounds))
        async with shared.open() as storage:
            token = (
                await storage.placement.claim(
                    races.COUNTER, 5, supersede=await self._token(storage)
                )
            ).token
            stored = await races.load(storage.state, races.COUNTER, token)
        assert int(stored.data) == stored.version == acknowledged > 0

    async def test_a_snapshot_is_never_torn_while_another_process_writes(
        self, shared: Shared
    ) -> None:
        async with (
            Racer(shared, "move_in_step", 1, 1) as writer,
            shared.open().membership as membership,
        ):
            writer.tell()
            earlier = await membership.snapshot()
            for _ in range(self.reads):
                snapshot = await membership.snapshot()
                self._check_pair(snapshot)
                assert snapshot.version >= earlier.version
                if (
                    snapshot.version == earlier.version or snapshot.members
                ):  # one without members may come again
                    assert (snapshot.version == earlier.version) is (
                        snapshot.members == earlier.members
                    )
                earlier = snapshot
            writer.tell()
            assert await writer.answer() > 0

    async def test_a_killed_process_loses_nothing_that_was_acknowledged(
        self, shared: Shared
    ) -> None:
        acknowledged: dict[str, int] = {}
        async with Racer(shared, "save_for_ever", 1, 32) as writer:
            writer.tell()
            for _ in range(10 * self.rounds):
                id, version = await writer.answer()
                acknowledged[id] = version
            acknowledged.update(json.loads(line) for line in await writer.kill())
        async with shared.open().state as state:
            for id, version in acknowledged.items():
                found = await state.load_and_fence(ObjectId("Saved", id), "s", 2)
                assert found.version in (version, version + 1)
                assert found.data == str(found.version).encode()

    async def _register(self, shared: Shared, count: int) -> list[int]:
        async with shared.open().membership as membership:
            return [await member_in(membership, ACTIVE, f"h:{port}") for port in range(count)]

    async def _generations(self, shared: Shared) -> list[int]:
        async with shared.open().membership as membership:
            return [member.generation for member in (await membership.snapshot()).members]

    @staticmethod
    async def _token(storage: Storage) -> int | None:
        placement = await storage.placement.lookup(races.COUNTER)
        return placement and placement.token

    @staticmethod
    def _check_pair(snapshot: MembershipSnapshot) -> None:
        """Of the two members that come, move and go, the left one is never behind and never two
        ahead.
        """
        status = {member.address: member.status for member in snapshot.members}
        left, right = status.get("left:1"), status.get("right:1")
        if left is None:
            assert right in (None, DEAD)
        else:
            assert left - (JOINING if right is None else right) in (0, 1)
