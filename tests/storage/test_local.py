"""The storages in memory keep the contracts."""

from collections.abc import AsyncIterator

import pytest

from rio.contracts.membership import MembershipStorage
from rio.contracts.placement import ObjectPlacement
from rio.contracts.state import StateStorage
from rio.storage import Storage, open_storage
from rio.storage.local import LocalMembershipStorage, LocalObjectPlacement, LocalState
from rio.testing.conformance import (
    FirstCommitTests,
    MembershipStorageTests,
    ObjectPlacementTests,
    StateStorageTests,
)
from tests.storage.steps import ADA


class TestLocalMembershipStorage(MembershipStorageTests):
    @pytest.fixture
    async def membership(self) -> AsyncIterator[MembershipStorage]:
        async with LocalMembershipStorage() as membership:
            yield membership


class TestLocalObjectPlacement(ObjectPlacementTests):
    @pytest.fixture
    async def placement(self) -> AsyncIterator[ObjectPlacement]:
        async with LocalObjectPlacement() as placement:
            yield placement


class TestLocalState(StateStorageTests):
    @pytest.fixture
    async def state(self) -> AsyncIterator[StateStorage]:
        async with LocalState() as state:
            yield state


class TestFirstCommitInMemory(FirstCommitTests):
    @pytest.fixture
    async def storage(self) -> AsyncIterator[Storage]:
        async with open_storage("memory://") as storage:
            yield storage


async def test_content_survives_closing_and_preparing_again() -> None:
    placement = LocalObjectPlacement()
    async with placement:
        claimed = await placement.claim(ADA, 1)
    async with placement:
        assert await placement.lookup(ADA) == claimed


async def test_what_is_stored_is_not_shared_with_the_writer() -> None:
    async with LocalMembershipStorage() as membership:
        before = await membership.snapshot()
        await membership.register("h:1")
        assert before.members == ()
