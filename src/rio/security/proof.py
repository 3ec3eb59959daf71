"""How each side of a connection proves that it holds a key, without showing it.

Both sides send a HELLO with a random number of their own, and then a proof. The proof covers both
HELLOs whole, so that nothing in them can be changed on the way; the side that makes it, so that
nobody can send a proof back to where it came from; and the certificate of the server, so that
nobody can stand between the two.
"""

from __future__ import annotations

import hmac
import secrets
from hashlib import sha256
from typing import Literal

NONCE_SIZE = 32
"""Bytes of the random number in a HELLO."""

PROOF_LIFE = 24 * 3600.0
"""Seconds after which a server cuts off a connection whose client has not proven itself anew."""
RENEW_AFTER = 20 * 3600
RENEW_SPREAD = 3 * 3600

Side = Literal["client", "server"]


def make_nonce() -> bytes:
    return secrets.token_bytes(NONCE_SIZE)


def renewal() -> float:
    """Seconds after which a client proves itself anew, over another connection: early enough for
    the calls that are under way on this one, and not all clients at the same time.
    """
    return RENEW_AFTER + secrets.randbelow(RENEW_SPREAD)


class Proofs:
    """The proofs of one connection.

    ``client_hello``, ``server_hello``: what the two have said, whole. ``digest``: the SHA-256 of
    the server's certificate; empty where it has none. ``secret``: that of the client's key.
    """

    def __init__(
        self, client_hello: bytes, server_hello: bytes, digest: bytes, secret: bytes
    ) -> None:
        parts = (client_hello, server_hello, digest)
        self._said = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
        self._secret = secret

    def of(self, side: Side) -> bytes:
        """The proof of one side: an HMAC-SHA256."""
        said = b"rio " + side.encode() + b"\0" + self._said
        return hmac.digest(self._secret, said, sha256)

    def is_of(self, side: Side, proof: bytes) -> bool:
        """Whether ``proof`` is that of this side. The answer takes the same time wherever it is
        wrong.
        """
        return hmac.compare_digest(self.of(side), proof)
