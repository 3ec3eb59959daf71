"""The handshake, on both sides. An execution is a HELLO or a PROOF.

Nobody is accepted without a proof, and no proof fits but to what was said.
"""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import msgspec

from fuzz.client import Client, Line, Pipe
from fuzz.mutator import Mutator
from rio._core import dispatch
from rio._core.budget import Usage
from rio._core.frame import ReceiveBuffer
from rio.errors import RioError
from rio.security.keys import Key
from rio.security.proof import Proofs
from rio.security.security import Security, trust_of
from rio.security.trust import Trust
from rio.transport import protocol
from rio.transport.protocol import VERSION, Hello
from rio.transport.server_connection import ServerConnection
from tests.core.node import Node, frames

SECRET = bytes(range(32))
KEYS = [Key("node-1", "node", SECRET), Key("web", "call", SECRET[::-1], ("Thing.*",))]
HELLOS = [
    Hello(VERSION, "client", key="web", nonce=SECRET),
    Hello(VERSION, "node", 3, "10.0.0.7:7000", "cluster", ("cancel_answer",), key="node-1"),
    Hello(VERSION, "node", 3, "10.0.0.7:7000", "cluster", (), 4096, 100, "node-1", SECRET),
    Hello(VERSION, "client"),
    Hello(VERSION + 1, "client", frame_limit=1, in_flight_limit=0),
]
CORPUS = [*map(protocol.write_hello, HELLOS), protocol.write_proof(SECRET)]


class Server(ServerConnection):
    broken: Exception | None = None

    def break_off(self, error: Exception) -> None:
        self.broken = error
        super().break_off(error)


class Wire(Pipe):
    def set_write_buffer_limits(self, high: int) -> None: ...
    def is_closing(self) -> bool:
        return False

    @property
    def bodies(self) -> list[bytes]:
        data, found = b"".join(self.writes), []
        while data:
            size = 4 + int.from_bytes(data[:4], "big")
            found.append(data[4:size])
            data = data[size:]
        return found


class Target:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._trust = trust_of(Security(KEYS, encryption="none"))

    def make(self, mutator: Mutator) -> bytes:
        """The first byte says whose handshake it is; what follows is one mutated frame."""
        return bytes([mutator.below(256)]) + mutator.mutant()

    def run(self, conversation: bytes) -> int:
        return self._loop.run_until_complete(self._handle(conversation))

    async def _handle(self, conversation: bytes) -> int:
        how, body = conversation[0], conversation[1:]
        match how % 4:
            case 0 | 1:
                self._to_server(body, with_proof=bool(how & 1))
            case 2:
                self._to_open_server(body)
            case 3:
                self._to_client(body, with_hello=bool(how & 4))
        await asyncio.sleep(0)
        return 1

    def _server(self, security: Trust | None) -> Server:
        owner: Any = SimpleNamespace(
            hello=Hello(VERSION, "node", 7, "10.0.0.8:7000", "cluster"),
            security=security,
            refuses=False,
            note_refused=lambda *_: None,
            forget=lambda _: None,
            gossip=lambda *_: None,
            request_stop=lambda: None,
            unsubscribe=lambda *_: None,
            meet=lambda _: None,
            part=lambda _: None,
            check_room=lambda *_: None,
            conceal=lambda error, _: error,
            enter=lambda *_: Usage(),
            leave=lambda _: None,
        )
        server = Server(Node(dispatch).dispatcher, owner, 65_536)
        server.connection_made(Wire())
        return server

    def _to_server(self, body: bytes, *, with_proof: bool) -> None:
        server = self._server(self._trust)
        if with_proof:  # the mutant is the proof of the first HELLO
            server.receive(frames(CORPUS[0]))
            assert not server.accepted
            server.receive(frames(body))
            assert not server.accepted, "it takes what is no proof"
        else:  # the mutant is the HELLO, and the proof fits to all HELLOs of the corpus
            server.receive(frames(body))
            said = [] if server.transport is None else server.transport.bodies
            if server.broken is None and len(said) == 2:
                for hello, key in zip(CORPUS, (KEYS[1], KEYS[0], KEYS[0]), strict=False):
                    proof = Proofs(hello, said[0], b"", key.secret).of("client")
                    if server.broken is None and hello != body:
                        server.receive(frames(protocol.write_proof(proof)))
                        assert not server.accepted, "a HELLO was changed on the way"
        self._check(server)

    def _to_open_server(self, body: bytes) -> None:
        server = self._server(None)
        server.receive(frames(body))
        assert server.accepted or server.broken is not None
        self._check(server)

    def _check(self, server: Server) -> None:
        assert server.broken is None or isinstance(server.broken, RioError), f"{server.broken!r}"
        server.connection_lost(None)
        assert not server.dispatcher.connections
        assert not server.dispatcher.budget.used

    def _to_client(self, body: bytes, *, with_hello: bool) -> None:
        hello = msgspec.structs.replace(HELLOS[0], nonce=b"")
        security = trust_of(Security([KEYS[1]], encryption="none"))
        line = Line(self._loop, Client(), hello, 65_536, ReceiveBuffer(), security)  # type: ignore[arg-type]
        line.connection_made(Wire())
        if with_hello:
            line.receive(frames(CORPUS[2]))
        line.receive(frames(body))
        assert not line.usable, "it believes a server that proves nothing"
        assert line.broken is None or isinstance(line.broken, RioError), f"{line.broken!r}"
        line.connection_lost(None)

    def close(self) -> None:
        self._loop.close()
