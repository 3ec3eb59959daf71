"""Users send heartbeats; rooms know which users are online, and publish each change.

A room keeps presence only in memory: when the room moves to another server, the next heartbeats
fill it again. A user saves the rooms that it has entered, because no heartbeat could restore them.
Each user in memory has a worker that listens for silence, and then shuts the object down.
"""

from __future__ import annotations

import asyncio

import msgspec

import rio

SILENCE = 2.0
"""Seconds without a heartbeat after which a user counts as offline."""


# --- rooms ----------------------------------------------------------------------------------------


class Changed(rio.Message):
    """A room publishes this when a user comes or goes."""

    user: str
    online: bool


class Seen(rio.Message[None], idempotent=True):
    """Tell a room that a user is there."""

    user: str


class Gone(rio.Message[None], idempotent=True):
    """Tell a room that a user has left."""

    user: str


class Online(rio.Message):
    users: list[str]


class WhoIsOnline(rio.Message[Online], readonly=True):
    """Ask a room which users are there."""


class Room(rio.ServiceObject):
    async def before_load(self) -> None:
        self.last_seen: dict[str, float] = {}

    @rio.handler
    def seen(self, message: Seen) -> None:
        came = message.user not in self.last_seen
        self.last_seen[message.user] = now()
        if came:
            self.publish(Changed(message.user, online=True))
        self._drop_the_silent()

    @rio.handler
    def gone(self, message: Gone) -> None:
        self._forget(message.user)

    @rio.handler
    def who_is_online(self, message: WhoIsOnline) -> Online:
        self._drop_the_silent()
        return Online(sorted(self.last_seen))

    def _drop_the_silent(self) -> None:
        """Drop the users that nobody could report as gone, because their servers were killed."""
        earliest = now() - 2 * SILENCE
        for user in [user for user, seen in self.last_seen.items() if seen < earliest]:
            self._forget(user)

    def _forget(self, user: str) -> None:
        if self.last_seen.pop(user, None) is not None:
            self.publish(Changed(user, online=False))


# --- users ----------------------------------------------------------------------------------------


class Enter(rio.Message[None], idempotent=True):
    """Enter a room, and stay in it until :class:`Leave`."""

    room: str


class Heartbeat(rio.Message[None], idempotent=True):
    """Tell a user object that the user's program is alive."""


class Leave(rio.Message[None], idempotent=True):
    """Leave all rooms."""


class EndIfSilent(rio.Message[None], idempotent=True):
    """The worker of a user object has heard nothing for too long."""


class Entered(rio.State):
    """What a user remembers: the rooms that it has entered."""

    rooms: list[str] = msgspec.field(default_factory=list)


class User(rio.ServiceObject):
    entered: Entered = rio.managed_state()

    async def after_load(self) -> None:
        self.heard_at = now()
        self.tasks.create(self._listen())

    async def _listen(self) -> None:
        """The worker. It ends with the object, which it has shut down when the user is silent.

        It runs beside the handlers, so it changes nothing itself: it sends the object a message.
        """
        while True:
            await asyncio.sleep(SILENCE / 8)
            if self._is_silent():
                await self.send(User, self.id, EndIfSilent())

    def _is_silent(self) -> bool:
        return now() - self.heard_at > SILENCE

    @rio.handler
    async def enter(self, message: Enter) -> None:
        self.heard_at = now()
        if message.room not in self.entered.rooms:
            self.entered.rooms.append(message.room)
            await self.save_state()
        await self.send(Room, message.room, Seen(self.id))

    @rio.handler
    async def heartbeat(self, message: Heartbeat) -> None:
        self.heard_at = now()
        for room in self.entered.rooms:
            await self.send(Room, room, Seen(self.id))

    @rio.handler
    async def leave(self, message: Leave) -> None:
        for room in self.entered.rooms:
            await self.send(Room, room, Gone(self.id))
        self.entered.rooms.clear()
        await self.save_state()

    @rio.handler
    async def end_if_silent(self, message: EndIfSilent) -> None:
        if self._is_silent():  # still: a heartbeat may have come before this message
            for room in self.entered.rooms:
                await self.send(Room, room, Gone(self.id))
            await self.shutdown()


def now() -> float:
    return asyncio.get_running_loop().time()


registry = rio.Registry(Room, User)
