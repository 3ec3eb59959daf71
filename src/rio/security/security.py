"""Who may reach a cluster, as the user of a server or a client says it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rio.errors import ConfigurationError
from rio.security.credentials import Credentials, Encryption, HttpAccess, read_credentials
from rio.security.keys import Key
from rio.security.trust import Authorize, Trust

VARIABLE = "RIO_SECURITY"
"""The variable of the environment that names the file, where nothing else does."""


class Security:
    """Who may reach a cluster. A server and a client that have it prove themselves to each other,
    and encrypt what they say. ::

        server = rio.Server(registry, storage=url, security="/run/secrets/rio.toml")

        client = rio.Client(url, security=rio.Security([key], encryption="none"))

    ``keys``: of a server all that it accepts; it proves itself by the first of role ``"node"``. A
    client proves itself by the first one. ``encryption``: ``"key"`` (TLS 1.3 by the key itself,
    from Python 3.13 on), ``"certificates"`` (TLS 1.3, on every Python), or ``"none"``, for networks
    that nobody else can read. By default it is by certificates if there are some, and else by key.
    ``certificate``, ``private_key``: the PEM files of this process; a client needs none.
    ``ca``: the PEM files of all authorities that this process trusts.

    ``http_tokens``: by names for people, what a server accepts as a bearer token over HTTP.
    ``http_certificate``, ``http_private_key``: the PEM files with which it encrypts HTTP, if they
    are others than its own.

    ``authorize(identity, object_id, message_name)``: whether a caller may send this message to this
    object, asked on the server for each call that comes from a client, before anything is decoded
    or activated. It must not block. If it raises, the call is refused.

    :raises ConfigurationError: the credentials cannot be used together, or this Python cannot use
        them.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        encryption: Encryption | None = None,
        certificate: str | os.PathLike[str] | None = None,
        private_key: str | os.PathLike[str] | None = None,
        ca: Iterable[str | os.PathLike[str]] = (),
        http_tokens: Mapping[str, str] | None = None,
        http_certificate: str | os.PathLike[str] | None = None,
        http_private_key: str | os.PathLike[str] | None = None,
        authorize: Authorize | None = None,
    ) -> None:
        credentials = Credentials(
            tuple(keys),
            encryption=encryption,
            certificate=_path(certificate),
            private_key=_path(private_key),
            ca=tuple(Path(each) for each in ca),
            http=HttpAccess(http_tokens or {}, _path(http_certificate), _path(http_private_key)),
        )
        self._trust = Trust(credentials, authorize)

    @classmethod
    def from_file(
        cls, path: str | os.PathLike[str], *, authorize: Authorize | None = None
    ) -> Security:
        """The security that a file describes, which ``rio keygen`` makes. Servers and clients read
        it again when it changes; a new file that cannot be used is logged, and what the old one
        said holds on.

        :raises ConfigurationError: the file cannot be used, or others than its owner can read it.
        """
        made = cls.__new__(cls)
        made._trust = Trust(read_credentials(Path(path)), authorize, Path(path))
        return made

    def __repr__(self) -> str:
        return repr(self._trust)


def _path(given: str | os.PathLike[str] | None) -> Path | None:
    return None if given is None else Path(given)


def trust_of(given: Any) -> Trust | None:
    """What a client or a server was given, or what the environment names.

    :raises ConfigurationError: it is none, or its file cannot be used.
    """
    if given is None:
        path = os.environ.get(VARIABLE)
        return Security.from_file(path)._trust if path else None
    if isinstance(given, Security):
        return given._trust
    if isinstance(given, str | os.PathLike):
        return Security.from_file(given)._trust
    raise ConfigurationError(
        f"security= takes a rio.Security or the path of a security file, got {type(given).__name__}"
    )
