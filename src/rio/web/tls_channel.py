"""TLS for a connection that has counted since before its handshake."""

from __future__ import annotations

import ssl
from contextlib import suppress

CHUNK = 1 << 16
"""Bytes that are decrypted at a time."""


class TlsChannel:
    """A server's end of TLS, in memory: what comes from the client goes in, and what is to be sent
    comes out. The event loops encrypt too, but tell nobody of a connection until its handshake has
    ended, so nobody could count it or drop it.
    """

    def __init__(self, context: ssl.SSLContext) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._is_agreed = False
        self.has_ended = False
        """Whether the client has said that it sends nothing more."""

    def decrypt(self, data: bytes) -> bytes:
        """What these bytes from the client say.

        :raises ssl.SSLError: they are no TLS, or the two do not agree on it. What is to be sent
            tells the client why.
        """
        self._incoming.write(data)
        said = bytearray()
        try:
            if not self._is_agreed:
                self._tls.do_handshake()
                self._is_agreed = True
            while chunk := self._tls.read(CHUNK):
                said += chunk
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        return bytes(said)

    def encrypt(self, data: bytes) -> bytes:
        """What to send to say this, after the handshake."""
        self._tls.write(data)
        return self.take()

    def end(self) -> bytes:
        """What to send to say that nothing more comes."""
        with suppress(ssl.SSLError):  # the client has not said so yet
            self._tls.unwrap()
        return self.take()

    def take(self) -> bytes:
        """What is to be sent now."""
        return self._outgoing.read()
