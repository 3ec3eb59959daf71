"""Keys: who holds one, and what its holder may do."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, Literal, get_args

import msgspec

from rio._core.clock import now
from rio.errors import ConfigurationError
from rio.security.acts import note_act

Role = Literal["node", "admin", "call", "observe"]
ROLES: tuple[Role, ...] = get_args(Role)

SUBSCRIBE = "rio.subscribe"
OF_OPERATORS = ("rio.shutdown", "rio.publish")
"""Messages that no pattern allows: they are for operators, and for members of the cluster."""
UNLIMITED: tuple[Role, ...] = ("node", "admin")
"""Roles whose calls are not limited by patterns."""

LEAST_SECRET = 16
"""Bytes of the shortest secret. ``rio keygen`` makes 32."""
MAX_KEY_ID = 128
"""Characters of the longest key id."""
REMEMBERED = 1024
"""Pairs of type and message whose answer is remembered for a key."""

NOT_ALLOWED = "the role of the key does not allow it"
NOTE_INTERVAL = 1.0


class Identity(msgspec.Struct, frozen=True, array_like=True):
    """Who has called: the holder of a key."""

    id: str
    """The id of the key."""
    role: Role


class Key(msgspec.Struct, frozen=True):
    """A secret that a client or a server shares with the servers, and what it may do.

    ``id``: the name of the key, which logs and :func:`rio.caller` show; it is no secret. ``role``:

    - ``"node"``: a server of the cluster. It may do everything.
    - ``"admin"``: may call everything, and stop servers and objects.
    - ``"call"``: may call, and subscribe to, what ``allow`` names.
    - ``"observe"``: may subscribe to the types that ``allow`` names, and read the HTTP pages.

    ``secret``: at least 16 random bytes. ``allow``: patterns of ``Type.Message``, where ``*`` is
    any text, such as ``"Account.*"``. They limit the roles ``call`` and ``observe``.

    :raises ConfigurationError: one of these cannot be used.
    """

    id: str
    role: Role
    secret: bytes
    allow: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        if not (
            isinstance(self.id, str) and 0 < len(self.id) <= MAX_KEY_ID and self.id.isprintable()
        ):
            raise ConfigurationError(
                f"the id of a key is a text of 1 to {MAX_KEY_ID} printable characters,"
                f" got {self.id!r:.200}"
            )
        if self.role not in ROLES:
            raise ConfigurationError(
                f"key {self.id!r} has role {self.role!r}; a role is one of {', '.join(ROLES)}"
            )
        if not isinstance(self.secret, bytes) or len(self.secret) < LEAST_SECRET:
            raise ConfigurationError(
                f"the secret of key {self.id!r} is not bytes, or fewer than {LEAST_SECRET}:"
                " let `rio keygen` make one"
            )
        if isinstance(self.allow, str) or not all(isinstance(each, str) for each in self.allow):
            raise ConfigurationError(
                f"allow of key {self.id!r} is a list of patterns such as 'Account.*',"
                f" got {self.allow!r:.200}"
            )

    def __repr__(self) -> str:
        return f"<Key {self.id} ({self.role})>"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("id", self.id), ("role", self.role)]

    @property
    def identity(self) -> Identity:
        """What handlers see of the key: :func:`rio.caller`."""
        return Identity(self.id, self.role)

    @classmethod
    def generate(cls, id: str, role: Role, allow: tuple[str, ...] = ("*",)) -> Key:
        """A key with a new random secret of 32 bytes.

        :raises ConfigurationError: the id, the role or a pattern cannot be used.
        """
        return cls(id, role, secrets.token_bytes(32), allow)

    def is_narrower_than(self, other: Key) -> bool:
        """Whether the holder of this key must not do all that the holder of ``other`` did."""
        if (self.secret, self.role) != (other.secret, other.role):
            return True
        # A pattern covers another one if it matches its text: "A.*" matches "A.B" and "A.B*".
        covers = _matcher(self.allow)
        return not all(covers(pattern) for pattern in other.allow)


class Rights:
    """What the holder of a limited key may send. It is asked when a connection names another type
    or message than before.
    """

    def __init__(self, key: Key) -> None:
        self._key = key
        self._matches = _matcher(key.allow)
        self._note_at = 0.0
        self.allows = lru_cache(REMEMBERED)(self._allows)

    def _allows(self, type_name: str, message_name: str) -> bool:
        if message_name in OF_OPERATORS:
            return False
        if self._key.role == "observe" and message_name != SUBSCRIBE:
            return False
        return bool(self._matches(f"{type_name}.{message_name}"))

    def why_not(self, type_name: str, message_name: str) -> str:
        """What to answer if it is not allowed. That somebody tries what operators do is noted, once
        a second at most.
        """
        if message_name in OF_OPERATORS and now() >= self._note_at:
            self._note_at = now() + NOTE_INTERVAL
            note_act(message_name, type_name, self._key.identity, "?", NOT_ALLOWED)
        return (
            f"key {self._key.id!r} (role {self._key.role}) may not send {message_name} to"
            f" {type_name}: the security file of the servers does not allow it"
        )


def _matcher(patterns: Iterable[str]) -> Callable[[str], object]:
    """What matches the texts that one of the patterns describes."""
    parts = (".*".join(map(re.escape, pattern.split("*"))) for pattern in patterns)
    return re.compile("|".join(parts) or r"(?!)", re.DOTALL).fullmatch


def encode_secret(secret: bytes) -> str:
    """A secret as it stands in a file."""
    return base64.urlsafe_b64encode(secret).decode()


def decode_secret(text: Any, id: str) -> bytes:
    """:raises ConfigurationError: the text is no secret."""
    try:
        return base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError, TypeError):
        # from None: the cause would show a part of the secret
        raise ConfigurationError(
            f"the secret of key {id!r} is not in base64: let `rio keygen` make one"
        ) from None
