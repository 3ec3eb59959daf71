"""Whom a process trusts and by what it proves itself, and how that changes while it runs."""

from __future__ import annotations

import functools
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from rio._core.dispatch import RemoteCaller, Turn
from rio.errors import ConfigurationError, NotAuthenticated
from rio.identity import ObjectId
from rio.logs import Logger
from rio.security.acts import note_act
from rio.security.credentials import Credentials, read_credentials, stamp_of
from rio.security.keys import OF_OPERATORS, Identity, Key

logger = Logger("rio.security")

WARN_BEFORE = 30 * 86400.0
"""Seconds before a certificate expires from which on the log warns of it."""
WARN_INTERVAL = 86400.0

Authorize: TypeAlias = Callable[[Identity, ObjectId, str], bool]
"""Decides whether a caller may send a message, by its name, to an object."""


class Trust:
    """What a :class:`rio.Security` stands for, as servers, clients and their connections use it.

    ``path``: the file from which ``credentials`` are, which may change.
    """

    def __init__(
        self, credentials: Credentials, authorize: Authorize | None, path: Path | None = None
    ) -> None:
        self.credentials = credentials
        """What holds now. Another object takes its place when the file has changed."""
        self._authorize = authorize
        self._path = path
        self._files = credentials.files
        self._warn_at = 0.0

    def refresh(self) -> None:
        """Read the file again if it, or one that it names, has changed. :attr:`credentials` is
        another object then. Once a day, warn of certificates that are about to expire.
        """
        self._read_if_changed()
        if time.time() >= self._warn_at:
            self._warn_at = time.time() + WARN_INTERVAL
            self._warn_of_expiry()

    def _warn_of_expiry(self) -> None:
        for file, end in self.credentials.expiries.items():
            left = end - time.time()
            if left < 0:
                logger.error("%s has expired on %s: what it signs is refused", file, _day_of(end))
            elif left < WARN_BEFORE:
                days = left // WARN_INTERVAL
                logger.warning("%s expires in %d days, on %s", file, days, _day_of(end))

    def _read_if_changed(self) -> None:
        found = {file: stamp_of(file) for file in self._files}
        if self._path is None or found == self._files:
            return
        self._files = found  # what cannot be used is not read again until it changes once more
        try:
            self.credentials = self._read_again(self._path)
        except ConfigurationError as error:
            logger.error("the credentials stay as they were: %s", error)
            return
        self._files = self.credentials.files
        self._warn_at = 0.0
        logger.info("read %s again: %r", self._path, self)

    def _read_again(self, path: Path) -> Credentials:
        credentials, before = read_credentials(path), self.credentials
        if before.own_key("node") and not credentials.own_key("node"):
            raise ConfigurationError(f"{path} has no key of role 'node' any more")
        if before.accepts and not credentials.accepts:
            raise ConfigurationError(f"{path} names no certificate of this server any more")
        if credentials.encryption != before.encryption:
            raise ConfigurationError(
                f"{path} changes the encryption from {before.encryption!r} to"
                f" {credentials.encryption!r}, which needs a restart"
            )
        return credentials

    # --- a client's side --------------------------------------------------------------------------

    def own_key(self, role: str) -> Key:
        """The key by which this process proves itself, as a ``"node"`` or as a ``"client"``.

        :raises ConfigurationError: a node has none of its role.
        """
        key = self.credentials.own_key("node" if role == "node" else None)
        if key is None:
            raise ConfigurationError("a server needs a key of role 'node': `rio keygen` makes one")
        return key

    def client_tls(self, role: str) -> ssl.SSLContext | None:
        """What a connection is encrypted with that this process makes; ``None`` if it is not."""
        tls = self.credentials.tls
        return None if tls is None else tls.client(self.own_key(role))

    # --- a server's side --------------------------------------------------------------------------

    def server_tls(self) -> ssl.SSLContext | None:
        """What connections to this process are encrypted with; ``None`` if they are not.

        :raises ConfigurationError: it has no certificate to encrypt by.
        """
        tls = self.credentials.tls
        if tls is not None and tls.server is None:
            raise ConfigurationError(
                "a server that encrypts by certificates needs a certificate and a private_key"
            )
        return None if tls is None else tls.server

    def key_of(self, id: str, role: str, shows_certificate: bool) -> Key:
        """The key by which a peer wants to prove itself, as a ``"node"`` or as a ``"client"``.

        :raises NotAuthenticated: there is no such key, or it is not enough for this role.
        """
        if not id:
            raise NotAuthenticated(
                "this server asks for a key: give the other side security=, or set RIO_SECURITY"
            )
        key = self.credentials.keys.get(id)
        if key is None:
            raise NotAuthenticated(f"this server knows no key {id!r:.200}")
        if role == "node" and key.role != "node":
            raise NotAuthenticated(f"key {id!r} is of role {key.role!r}: a server needs 'node'")
        if (
            role == "node"
            and self.credentials.encryption == "certificates"
            and not shows_certificate
        ):
            raise NotAuthenticated("a server has to show a certificate of its own")
        return key

    def authorizer(self, key: Key) -> Callable[[Turn], bool] | None:
        """What decides about each call of a connection; ``None``: nothing does."""
        if self._authorize is None:
            return None
        return functools.partial(_is_authorized, self._authorize, key.identity)

    def __repr__(self) -> str:
        ids = ", ".join(self.credentials.keys)
        return f"<Security by {ids}; encryption: {self.credentials.encryption}>"


def _day_of(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d at %H:%M} UTC"


def _is_authorized(authorize: Authorize, identity: Identity, turn: Turn) -> bool:
    object_id = ObjectId(turn.type_name, turn.id)
    try:
        allowed = bool(authorize(identity, object_id, turn.message_name))
    except Exception:
        logger.exception(
            "authorize failed for %s of %s: it is refused", turn.message_name, object_id
        )
        allowed = False
    if not allowed and turn.message_name in OF_OPERATORS and isinstance(turn.caller, RemoteCaller):
        peer = turn.caller.connection.peer_name
        note_act(turn.message_name, str(object_id), identity, peer, "authorize does not allow it")
    return allowed
