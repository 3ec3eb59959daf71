"""Tokens: what collectors and people show to see the HTTP pages."""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Collection, Iterable, Mapping

from rio.errors import ConfigurationError
from rio.security.keys import Key, encode_secret

LEAST_TOKEN = 16
"""Characters of the shortest token. ``rio keygen`` makes 43."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What a header can carry: RFC 6750, section 2.1."""


def make_token() -> str:
    """A new random token."""
    return secrets.token_urlsafe(32)


def check_tokens(tokens: Mapping[str, str], keys: Iterable[Key]) -> tuple[bytes, ...]:
    """Tokens, by their ids, as they are compared.

    :raises ConfigurationError: one cannot be used, or it is the secret of a key, which must not be
        sent.
    """
    secrets_of_keys = {encode_secret(key.secret).rstrip("=") for key in keys}
    for id, token in tokens.items():
        if not (isinstance(token, str) and len(token) >= LEAST_TOKEN and _TOKEN.fullmatch(token)):
            raise ConfigurationError(
                f"the HTTP token {id!r:.200} is no text of at least {LEAST_TOKEN} letters, digits"
                " and -._~+/: let `rio keygen --http` make one"
            )
        if token.rstrip("=") in secrets_of_keys:
            raise ConfigurationError(
                f"the HTTP token {id!r:.200} is the secret of a key: a token is sent, and a secret"
                " never is; let `rio keygen --http` make another one"
            )
    return tuple(token.encode() for token in tokens.values())


def is_one_of(tokens: Collection[bytes], shown: bytes) -> bool:
    """Whether somebody shows one of the tokens. How long it takes says nothing about them."""
    found = False
    for token in tokens:
        found |= hmac.compare_digest(token, shown)
    return found
