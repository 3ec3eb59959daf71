"""Watch a room while three users come and go: ada stays, bob leaves, carl falls silent."""

from __future__ import annotations

import argparse
import asyncio

import rio
from examples.presence.service import (
    SILENCE,
    Changed,
    Enter,
    Heartbeat,
    Leave,
    Room,
    User,
    WhoIsOnline,
)

ROOM = "lobby"


async def main(storage: str) -> None:
    async with (
        rio.Client(storage) as client,
        client.subscribe(Room, ROOM, Changed) as changes,
        asyncio.TaskGroup() as group,
    ):
        programs = {}
        for name in ("ada", "bob", "carl"):
            user = client.ref(User, name)
            await user.enter(Enter(ROOM))
            show(await anext(changes))
            programs[name] = group.create_task(keep_alive(user))
        programs["bob"].cancel()
        await client.ref(User, "bob").leave(Leave())
        show(await anext(changes))
        programs["carl"].cancel()  # no goodbye: the room notices the silence
        show(await anext(changes))
        online = await client.ref(Room, ROOM).who_is_online(WhoIsOnline())
        print(f"now online: {', '.join(online.users)}")
        programs["ada"].cancel()


async def keep_alive(user: User) -> None:
    """Send heartbeats for ever, as the program of a user does."""
    while True:
        await user.heartbeat(Heartbeat())
        await asyncio.sleep(SILENCE / 5)


def show(change: Changed) -> None:
    print(f"{change.user} is {'online' if change.online else 'offline'}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--storage",
        required=True,
        help="the storage of the cluster, for example sqlite:///presence.db",
    )
    rio.run(main(parser.parse_args().storage))
