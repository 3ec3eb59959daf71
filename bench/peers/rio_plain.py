"""rio with a handler that is a plain function: it needs no task."""

from __future__ import annotations

from functools import partial

import rio
from bench.peers import rio as with_async_handler
from bench.peers.rio import Ping, Pong

TITLE = "rio, plain handler"


class PlainPlayer(rio.ServiceObject):
    pings = 0

    @rio.handler
    def ping(self, message: Ping) -> Pong:
        self.pings += 1
        return Pong(message.ping_id)


serve = partial(with_async_handler.serve, player=PlainPlayer)
drive = partial(with_async_handler.drive, player=PlainPlayer)
