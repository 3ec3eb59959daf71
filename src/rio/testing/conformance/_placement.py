"""The suite for storages of placements."""

from __future__ import annotations

import asyncio
import time
from typing import ClassVar

import pytest

from rio.contracts.placement import ObjectPlacement
from rio.errors import StorageClosed
from rio.identity import ObjectId
from rio.testing.conformance._adoption import check_adoption
from rio.testing.conformance._samples import ADA, LOOKALIKES, REAL, SAME_IN_32_BITS

IN_2020 = 1_577_836_800_000_000
"""Microseconds since 1970."""


class ObjectPlacementTests:
    """What every :class:`rio.contracts.ObjectPlacement` must do.

    Subclass it, and give the fixture ``placement``: a storage that is prepared and empty, another
    one for each test.
    """

    rounds: ClassVar[int] = 20
    """How often a race is run."""
    clock_tolerance: ClassVar[float] = 0.2
    """Seconds by which tokens may be behind the storage's clock."""
    records_cluster: ClassVar[bool] = True
    """Whether :meth:`rio.contracts.Role.adopt` records the cluster."""

    async def test_it_belongs_to_the_cluster_that_adopted_it(
        self, placement: ObjectPlacement
    ) -> None:
        await check_adoption(placement, recorded=self.records_cluster)

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
        assert await placement.lookup(ADA) is None
        assert await placement.owned_by(1) == []
        assert (await placement.claim(ADA, 2)).token > claimed.token

    async def test_the_placements_of_a_member_go_together_and_those_of_others_stay(
        self, placement: ObjectPlacement
    ) -> None:
        objects = [ObjectId("Gone", str(number)) for number in range(1500)]
        gone = await asyncio.gather(*(placement.claim(object_id, 1) for object_id in objects))
        kept = await placement.claim(ADA, 2)
        assert await placement.release_all(1) == len(objects)
        assert await placement.owned_by(1) == []
        assert await placement.lookup(objects[0]) is None
        assert await placement.lookup(ADA) == kept
        assert await placement.release_all(1) == 0
        again = await placement.claim(objects[0], 3)
        assert again.token > max(claimed.token for claimed in gone)

    async def test_tokens_are_not_behind_the_time_in_microseconds_since_1970(
        self, placement: ObjectPlacement
    ) -> None:
        first, began = (await placement.claim(ADA, 1)).token, time.monotonic()
        assert first > IN_2020
        for _ in range(self.rounds):
            await asyncio.sleep(0.02)
            passed = time.monotonic() - began - self.clock_tolerance
            assert (await placement.claim(ADA, 1)).token >= first + passed * 1e6

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

    async def test_generations_and_tokens_are_compared_in_all_their_bits(
        self, placement: ObjectPlacement
    ) -> None:
        generations = [REAL, REAL + 1, REAL + SAME_IN_32_BITS]
        objects = [ObjectId("Bits", str(number)) for number in range(3)]
        claims = [
            await placement.claim(object_id, generation)
            for object_id, generation in zip(objects, generations, strict=True)
        ]
        assert [claim.generation for claim in claims] == generations
        for object_id, generation, claim in zip(objects, generations, claims, strict=True):
            others = generation + SAME_IN_32_BITS, generation - SAME_IN_32_BITS
            for other in others:
                assert await placement.claim(object_id, other) == claim
            for token in (claim.token + SAME_IN_32_BITS, claim.token - SAME_IN_32_BITS):
                assert await placement.claim(object_id, 1, supersede=token) == claim
                assert await placement.release(object_id, token) is False
            assert await placement.owned_by(generation) == [object_id]
        assert await placement.release_all(REAL + SAME_IN_32_BITS) == 1
        assert [await placement.lookup(object_id) for object_id in objects] == [*claims[:2], None]

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
