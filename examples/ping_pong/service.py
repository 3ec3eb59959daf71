"""An object that answers each ping with a pong, and remembers how many pings it received."""

from __future__ import annotations

import rio


class Pong(rio.Message):
    text: str
    count: int


class Ping(rio.Message[Pong]):
    text: str


class Score(rio.State):
    count: int = 0


class Player(rio.ServiceObject):
    score: Score = rio.managed_state()

    @rio.handler
    async def ping(self, message: Ping) -> Pong:
        self.score.count += 1
        await self.save_state()
        return Pong(f"{self.id} heard {message.text!r}", self.score.count)


registry = rio.Registry(Player)
