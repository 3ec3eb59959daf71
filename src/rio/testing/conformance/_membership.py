"""The suite for storages of the membership."""

from __future__ import annotations

import asyncio
import time
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
    digest_manifest,
)
from rio.errors import StorageClosed
from rio.testing.conformance._members import register_in
from rio.testing.conformance._samples import SAME_IN_32_BITS

JOINING, ACTIVE, DRAINING, CONDEMNED, LEFT, DEAD = MemberStatus
FORWARD = [(before, after) for before in MemberStatus for after in MemberStatus if before < after]
NOT_FORWARD = [
    (before, after) for before in MemberStatus for after in MemberStatus if before >= after
]

SHORT_WAIT = 0.2
"""Seconds for which a test waits for a change that does not come."""


class MembershipStorageTests:
    """What every :class:`rio.contracts.MembershipStorage` must do.

    Subclass it, and give the fixture ``membership``: a storage that is prepared and empty, another
    one for each test.
    """

    rounds: ClassVar[int] = 20
    """How often a race is run."""
    patience: ClassVar[float] = 10.0
    """Seconds after which what should have ended at once counts as hanging."""

    # register

    async def test_an_empty_storage_has_no_members(self, membership: MembershipStorage) -> None:
        snapshot = await membership.snapshot()
        assert snapshot == MembershipSnapshot(0, 0, (), snapshot.cluster_id)

    async def test_the_cluster_has_an_id_of_128_bits_which_stays(
        self, membership: MembershipStorage
    ) -> None:
        cluster_id = (await membership.snapshot()).cluster_id
        assert len(cluster_id) * 5 >= 128  # in base 32, or longer in another one
        registered = await membership.register("h:1")
        renewal = await membership.renew(registered.generation)
        assert registered.snapshot.cluster_id == cluster_id
        assert renewal is not None
        assert renewal.cluster_id == cluster_id
        await membership.close()
        await membership.prepare()
        assert (await membership.snapshot()).cluster_id == cluster_id

    async def test_another_cluster_id_ends_all_members(self, membership: MembershipStorage) -> None:
        members = [
            await register_in(membership, status, f"h:{status:d}") for status in MemberStatus
        ]
        before = await membership.snapshot()
        after = await membership.change_cluster_id("copy")
        assert after == await membership.snapshot()
        assert after.cluster_id == "copy"
        assert after.version > before.version
        assert [after.status_of(member) for member in members] == [DEAD] * 4 + [LEFT, DEAD]
        assert await membership.renew(members[0]) is None

    async def test_numbers_follow_the_clock_of_the_storage(
        self, membership: MembershipStorage
    ) -> None:
        earlier = await membership.register("h:1")
        await asyncio.sleep(0.02)
        later = await membership.register("h:2")
        assert later.generation - earlier.generation > 10_000  # microseconds
        assert later.snapshot.version - earlier.snapshot.version > 10_000
        await asyncio.sleep(0.02)
        assert (await membership.set_status(later.generation, JOINING, ACTIVE)).applied
        assert (await membership.snapshot()).version - later.snapshot.version > 10_000

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

    async def test_an_address_stays_as_it_was_given(self, membership: MembershipStorage) -> None:
        addresses = ["Node-A.Example:1", "node-a.example:1", "[FE80::1]:1", "[fe80::1]:1"]
        for address in addresses:
            await membership.register(address)
        members = (await membership.snapshot()).members
        assert [(member.address, member.status) for member in members] == [
            (address, JOINING) for address in addresses
        ]

    async def test_a_generation_is_compared_in_all_its_bits(
        self, membership: MembershipStorage
    ) -> None:
        voter = await register_in(membership, ACTIVE, "v:1")
        active, dead = [
            await register_in(membership, status, f"h:{status:d}") for status in (ACTIVE, DEAD)
        ]
        before = await membership.snapshot()
        alike = {active + SAME_IN_32_BITS, active - SAME_IN_32_BITS, active % SAME_IN_32_BITS}
        for other in alike - {active}:  # the clock of the storage may have begun an hour ago
            assert await membership.renew(other) is None
            assert not (await membership.set_status(other, ACTIVE, DRAINING)).applied
            assert not (await membership.vote(other, Vote(voter, 1.0))).applied
            assert await membership.set_manifest(other, b"x") is False
        late = Vote(voter + SAME_IN_32_BITS, 1.0)
        assert not (await membership.vote(active, late)).applied
        assert await membership.purge(dead + SAME_IN_32_BITS) is False
        assert await membership.set_settings(b"x", before.version + SAME_IN_32_BITS) is False
        assert await membership.snapshot() == before

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
        first = await register_in(membership, DEAD)
        assert await membership.purge(first) is True
        assert (await membership.register("h:1")).generation > first

    @pytest.mark.parametrize("status", [JOINING, ACTIVE, DRAINING, CONDEMNED])
    async def test_registering_an_address_kills_its_older_member(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        older = await register_in(membership, status)
        neighbour = await register_in(membership, ACTIVE, "h:11")
        before = (await membership.snapshot()).version
        younger, snapshot = await membership.register("h:1")
        assert snapshot.status_of(older) == DEAD
        assert snapshot.status_of(younger) == JOINING
        assert snapshot.status_of(neighbour) == ACTIVE
        assert snapshot.version > before

    # what members tell about themselves, and what they share

    async def test_a_manifest_is_kept_and_its_digest_is_in_the_snapshot(
        self, membership: MembershipStorage
    ) -> None:
        first, snapshot = await membership.register("h:1", manifest=b"\x00one")
        second, _ = await membership.register("h:2")
        member = snapshot.find(first)
        assert member is not None
        assert member.manifest_digest == digest_manifest(b"\x00one")
        found = await membership.read_manifests([first, second, second + 1])
        assert dict(found) == {first: b"\x00one", second: b""}
        assert dict(await membership.read_manifests([])) == {}

    async def test_a_new_manifest_replaces_the_old_one_and_raises_the_version(
        self, membership: MembershipStorage
    ) -> None:
        generation, before = await membership.register("h:1", manifest=b"one")
        assert await membership.set_manifest(generation, b"two") is True
        after = await membership.snapshot()
        member = after.find(generation)
        assert member is not None
        assert member.manifest_digest == digest_manifest(b"two")
        assert after.version > before.version
        assert dict(await membership.read_manifests([generation])) == {generation: b"two"}

    @pytest.mark.parametrize("status", [LEFT, DEAD])
    async def test_a_member_that_has_ended_gets_no_other_manifest(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        generation = await register_in(membership, status)
        before = await membership.snapshot()
        assert await membership.set_manifest(generation, b"two") is False
        assert await membership.set_manifest(generation + 1, b"two") is False
        assert await membership.snapshot() == before
        assert await membership.purge(generation) is True
        assert dict(await membership.read_manifests([generation])) == {}

    async def test_a_manifest_beyond_16_kib_is_refused(self, membership: MembershipStorage) -> None:
        generation, _ = await membership.register("h:1", manifest=b"x" * 16384)
        with pytest.raises(ValueError, match="16384"):
            await membership.register("h:2", manifest=b"x" * 16385)
        with pytest.raises(ValueError, match="16384"):
            await membership.set_manifest(generation, b"x" * 16385)
        assert len((await membership.snapshot()).members) == 1

    async def test_settings_are_set_only_by_who_has_read_the_newest_snapshot(
        self, membership: MembershipStorage
    ) -> None:
        before = await membership.snapshot()
        assert before.settings == b""
        assert await membership.set_settings(b"\x00one", before.version) is True
        after = await membership.snapshot()
        assert after.settings == b"\x00one"
        assert after.version > before.version
        assert await membership.set_settings(b"two", before.version) is False
        registered = await membership.register("h:1")
        assert registered.snapshot.settings == b"\x00one"
        assert await membership.set_settings(b"two", after.version) is False
        assert (await membership.snapshot()).settings == b"\x00one"

    async def test_of_many_who_set_the_settings_one_wins(
        self, membership: MembershipStorage
    ) -> None:
        for _ in range(self.rounds):
            version = (await membership.snapshot()).version
            won = await asyncio.gather(
                *(membership.set_settings(b"%d" % number, version) for number in range(8))
            )
            assert won.count(True) == 1
            assert (await membership.snapshot()).settings == b"%d" % won.index(True)

    # renew

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_only_a_member_that_may_serve_can_renew(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        generation = await register_in(membership, status)
        before = await membership.snapshot()
        renewal = await membership.renew(generation)
        assert (renewal is not None) is (status <= DRAINING)
        after = await membership.snapshot()
        assert self._counter(after, generation) == self._counter(before, generation) + (
            status <= DRAINING
        )
        assert renewal is None or renewal.lease_counter == self._counter(after, generation)
        assert after.version == before.version

    async def test_a_member_that_never_was_cannot_renew(
        self, membership: MembershipStorage
    ) -> None:
        assert await membership.renew(1) is None

    async def test_no_renewal_is_lost_among_many_at_once(
        self, membership: MembershipStorage
    ) -> None:
        generation = await register_in(membership, ACTIVE)
        renewals = await asyncio.gather(*(membership.renew(generation) for _ in range(50)))
        counters = {renewal.lease_counter for renewal in renewals if renewal is not None}
        assert counters == set(range(1, 51))
        assert self._counter(await membership.snapshot(), generation) == 50

    # set_status

    @pytest.mark.parametrize(("before", "after"), FORWARD)
    async def test_a_status_moves_forward(
        self, membership: MembershipStorage, before: MemberStatus, after: MemberStatus
    ) -> None:
        generation = await register_in(membership, before)
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
        generation = await register_in(membership, before)
        with pytest.raises(ValueError, match="forward"):
            await membership.set_status(generation, before, after)
        assert (await membership.snapshot()).status_of(generation) == before

    async def test_a_status_that_is_not_as_expected_stays_and_is_told(
        self, membership: MembershipStorage
    ) -> None:
        generation = await register_in(membership, DRAINING)
        before = await membership.snapshot()
        assert await membership.set_status(generation, ACTIVE, DEAD) == StatusChange(
            False, before.find(generation)
        )
        assert await membership.snapshot() == before

    async def test_a_member_that_has_renewed_since_it_was_read_does_not_die(
        self, membership: MembershipStorage
    ) -> None:
        generation = await register_in(membership, ACTIVE)
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
            generation = await register_in(membership, ACTIVE, f"h:{port}")
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
            await register_in(membership, ACTIVE, "h:1"),
            await register_in(membership, ACTIVE, "h:2"),
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
        voters = [await register_in(membership, ACTIVE, f"h:{port}") for port in range(2)]
        target = await register_in(membership, ACTIVE, "h:9")
        votes = [Vote(voters[0], 5.0), Vote(voters[1], 1.0), Vote(voters[0], 2.0)]
        changes = [await membership.vote(target, vote) for vote in votes]
        assert changes[-1].member is not None
        assert changes[-1].member.votes == (votes[1], votes[2])

    async def test_the_vote_that_came_first_goes_when_there_are_more_than_eight(
        self, membership: MembershipStorage
    ) -> None:
        voters = [
            await register_in(membership, ACTIVE, f"h:{port}") for port in range(MAX_VOTES + 2)
        ]
        target = await register_in(membership, ACTIVE, "t:1")
        changes = [
            await membership.vote(target, Vote(voter, -float(at)))
            for at, voter in enumerate(voters)
        ]
        assert changes[-1].member is not None
        assert [vote.voter for vote in changes[-1].member.votes] == voters[2:]

    async def test_votes_at_once_are_all_counted(self, membership: MembershipStorage) -> None:
        voters = [await register_in(membership, ACTIVE, f"h:{port}") for port in range(MAX_VOTES)]
        target = await register_in(membership, ACTIVE, "t:1")
        await asyncio.gather(*(membership.vote(target, Vote(voter, 1.0)) for voter in voters))
        member = (await membership.snapshot()).find(target)
        assert member is not None
        assert {vote.voter for vote in member.votes} == set(voters)

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_only_an_active_member_votes(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        voter, target = (
            await register_in(membership, status, "h:1"),
            await register_in(membership, ACTIVE, "h:2"),
        )
        assert (await membership.vote(target, Vote(voter, 1.0))).applied is (status == ACTIVE)

    @pytest.mark.parametrize("status", MemberStatus)
    async def test_votes_are_cast_on_members_that_are_not_gone(
        self, membership: MembershipStorage, status: MemberStatus
    ) -> None:
        voter, target = (
            await register_in(membership, ACTIVE, "h:1"),
            await register_in(membership, status, "h:2"),
        )
        before = (await membership.snapshot()).find(target)
        change = await membership.vote(target, Vote(voter, 1.0))
        assert change.applied is (not status.terminal)
        assert change.applied or change.member == before

    async def test_votes_of_or_on_members_that_never_were_change_nothing(
        self, membership: MembershipStorage
    ) -> None:
        generation = await register_in(membership, ACTIVE)
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
        generation = await register_in(membership, status)
        before = await membership.snapshot()
        assert await membership.purge(generation) is status.terminal
        snapshot = await membership.snapshot()
        assert (snapshot.version > before.version) is status.terminal
        assert (snapshot.find(generation) is None) is status.terminal
        assert snapshot.status_of(generation) == (DEAD if status.terminal else status)

    async def test_a_purged_member_stays_dead_to_every_call(
        self, membership: MembershipStorage
    ) -> None:
        voter, generation = (
            await register_in(membership, ACTIVE, "h:1"),
            await register_in(membership, DEAD, "h:2"),
        )
        assert await membership.purge(generation) is True
        before = await membership.snapshot()
        assert await membership.purge(generation) is False
        assert await membership.renew(generation) is None
        assert await membership.set_status(generation, JOINING, ACTIVE) == StatusChange(False, None)
        assert await membership.vote(generation, Vote(voter, 1.0)) == StatusChange(False, None)
        assert await membership.snapshot() == before

    # waiting for a change

    async def test_a_wait_for_changes_ends_at_its_timeout(
        self, membership: MembershipStorage
    ) -> None:
        version = (await membership.snapshot()).version
        for known in (0, version, version + 1):
            async with asyncio.timeout(self.patience):
                await membership.wait_for_change(known, 0.01)

    async def test_who_waits_for_changes_and_there_are_none_does_not_spin(
        self, membership: MembershipStorage
    ) -> None:
        version = (await membership.snapshot()).version
        began, worked = time.monotonic(), time.thread_time()
        for _ in range(5):
            await membership.wait_for_change(version, SHORT_WAIT)
        assert time.monotonic() - began >= 2 * SHORT_WAIT  # now and then one may return early
        assert time.thread_time() - worked < SHORT_WAIT  # and not all the time goes into it

    async def test_who_waits_for_changes_leaves_the_event_loop_to_others(
        self, membership: MembershipStorage
    ) -> None:
        version, began = (await membership.snapshot()).version, time.monotonic()
        waiting = asyncio.create_task(membership.wait_for_change(version, self.patience))
        await asyncio.sleep(SHORT_WAIT)
        await membership.register("h:1")
        assert time.monotonic() - began < self.patience
        waiting.cancel()
        await asyncio.wait((waiting,), timeout=self.patience)
        assert waiting.done()

    # snapshot and closing

    async def test_a_snapshot_is_never_torn(self, membership: MembershipStorage) -> None:
        left, right = [await register_in(membership, JOINING, f"h:{port}") for port in range(2)]
        writing = asyncio.create_task(self._move_in_step(membership, left, right))
        snapshots = [await membership.snapshot()]
        while not writing.done():
            await asyncio.sleep(0)  # a storage in memory may never wait
            snapshots.append(await membership.snapshot())
        await writing
        steps_ahead = {
            self._status(snapshot, left) - self._status(snapshot, right) for snapshot in snapshots
        }
        assert steps_ahead <= {0, 1}
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
