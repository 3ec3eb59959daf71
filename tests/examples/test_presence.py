"""Presence: what its objects do while nobody sends to them."""

from __future__ import annotations

import asyncio

import pytest

from examples.presence.service import (
    SILENCE,
    Changed,
    Enter,
    Heartbeat,
    Room,
    User,
    WhoIsOnline,
    registry,
)
from rio.testing import LocalCluster
from tests.server.harness import until

pytestmark = pytest.mark.virtual_time


async def test_a_user_who_falls_silent_is_reported_and_leaves_the_memory() -> None:
    async with LocalCluster(registry, nodes=1) as cluster:
        ada = cluster.client.ref(User, "ada")
        async with cluster.client.subscribe(Room, "lobby", Changed) as changes:
            await ada.enter(Enter("lobby"))
            assert await anext(changes) == Changed("ada", online=True)
            for _ in range(4):
                await asyncio.sleep(SILENCE / 2)
                await ada.heartbeat(Heartbeat())
            last = asyncio.get_running_loop().time()
            assert await anext(changes) == Changed("ada", online=False)
            assert SILENCE < asyncio.get_running_loop().time() - last < 1.5 * SILENCE
            await until(lambda: cluster.nodes[0].statistics().live_objects == 1)  # the room
            await ada.heartbeat(Heartbeat())
            assert await anext(changes) == Changed("ada", online=True)


async def test_a_room_forgets_users_whose_server_was_killed_with_them() -> None:
    async with LocalCluster(registry, nodes=2) as cluster:
        room = cluster.client.ref(Room, "lobby")
        await room.who_is_online(WhoIsOnline())
        home = await cluster.home(Room, "lobby")
        names = iter(f"user-{number}" for number in range(100))
        for name in names:
            await cluster.client.ref(User, name).enter(Enter("lobby"))
            if await cluster.home(User, name) is not home:
                await cluster.kill(await cluster.home(User, name))
                break
        assert name in (await room.who_is_online(WhoIsOnline())).users
        await asyncio.sleep(2 * SILENCE + 0.1)
        assert (await room.who_is_online(WhoIsOnline())).users == []
