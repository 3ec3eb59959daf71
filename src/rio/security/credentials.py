"""What a process proves itself with and checks others by, as it stands at present."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from rio.errors import ConfigurationError
from rio.security.keys import UNLIMITED, Key, Rights, Role, decode_secret, encode_secret
from rio.security.private_file import read_private, write_private
from rio.security.tls import CertificateTls, KeyTls, PagesTls
from rio.security.tokens import check_tokens

Encryption = Literal["key", "certificates", "none"]
ENCRYPTIONS: tuple[Encryption, ...] = get_args(Encryption)


class HttpAccess(msgspec.Struct, frozen=True):
    """Who may read the HTTP pages, and how they are encrypted.

    ``tokens``: what a collector shows, by names for people. ``certificate`` and ``private_key``:
    those of the server itself, unless others are given here.
    """

    tokens: Mapping[str, str] = {}
    certificate: Path | None = None
    private_key: Path | None = None


class Credentials:
    """Keys, and the way in which connections are encrypted. It does not change.

    ``keys``: the first one is that by which this process proves itself; a server takes the first of
    role ``"node"``. A server accepts all of them.

    :raises ConfigurationError: they cannot be used together, or this Python cannot use them.
    """

    def __init__(
        self,
        keys: tuple[Key, ...],
        *,
        encryption: Encryption | None = None,
        certificate: Path | None = None,
        private_key: Path | None = None,
        ca: tuple[Path, ...] = (),
        http: HttpAccess | None = None,
    ) -> None:
        self.keys = _by_id(keys)
        """By their ids."""
        self.rights = {key.id: Rights(key) for key in keys if key.role not in UNLIMITED}
        """What the holder of a key may send; of who may send everything there are none."""
        files = [each for each in (certificate, private_key, *ca) if each is not None]
        self.files = {file: stamp_of(file) for file in files}
        """What was read, and what shows that it has changed since."""
        self.encryption: Encryption = encryption or ("certificates" if files else "key")
        self.tls: KeyTls | CertificateTls | None = None
        match self.encryption:
            case "certificates":
                if not ca:
                    raise ConfigurationError(
                        "certificates need ca: the files of the authorities that are trusted"
                    )
                if (certificate is None) != (private_key is None):
                    raise ConfigurationError("certificate and private_key go together")
                is_node = self.own_key("node") is not None
                self.tls = CertificateTls(certificate, private_key, ca, is_node=is_node)
            case "key" | "none" if files:
                raise ConfigurationError(
                    f"encryption {self.encryption!r} takes no certificate, private_key or ca"
                )
            case "key":
                self.tls = KeyTls(keys)
            case "none":
                pass
            case _:
                raise ConfigurationError(
                    f"encryption is one of {', '.join(ENCRYPTIONS)}, got {encryption!r:.100}"
                )
        http = http or HttpAccess()
        self.http_tokens = check_tokens(http.tokens, keys)
        """Who shows one of them over HTTP may read all pages."""
        self._pages_tls = self._make_pages_tls(http, certificate, private_key)

    def _make_pages_tls(
        self, http: HttpAccess, certificate: Path | None, private_key: Path | None
    ) -> PagesTls | None:
        if (http.certificate is None) != (http.private_key is None):
            raise ConfigurationError("certificate and private_key of HTTP go together")
        certificate = http.certificate or certificate
        private_key = http.private_key or private_key
        if certificate is None or private_key is None or not self.own_key("node"):
            return None  # a client shows no pages
        # What was read before keeps its stamp: it may have changed meanwhile.
        self.files = {file: stamp_of(file) for file in (certificate, private_key)} | self.files
        return PagesTls(certificate, private_key)

    @property
    def http_tls(self) -> ssl.SSLContext | None:
        """What HTTP is encrypted with; ``None`` if it is not."""
        return None if self._pages_tls is None else self._pages_tls.server

    @property
    def accepts(self) -> bool:
        """Whether a server can accept connections by them: a client needs no certificate."""
        return self.tls is None or self.tls.server is not None

    @property
    def expiries(self) -> dict[Path, float]:
        """When the certificates in a file are not valid any more, in seconds of the Unix clock."""
        of_pages = {} if self._pages_tls is None else self._pages_tls.expiries
        return of_pages if self.tls is None else of_pages | self.tls.expiries

    @property
    def expire_in(self) -> float | None:
        """Seconds until the first certificate expires; ``None`` if there is none."""
        ends = self.expiries.values()
        return min(ends) - time.time() if ends else None

    def own_key(self, role: Role | None = None) -> Key | None:
        """The key by which this process proves itself: the first one, or the first of a role."""
        found = (key for key in self.keys.values() if role is None or key.role == role)
        return next(found, None)


def stamp_of(file: Path) -> object:
    """What is another value once the file was changed or replaced."""
    try:
        found = file.stat()
    except OSError as error:
        return error.errno
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _by_id(keys: Iterable[Key]) -> dict[str, Key]:
    """:raises ConfigurationError: there is none, or two have one id."""
    found: dict[str, Key] = {}
    for key in keys:
        if not isinstance(key, Key):
            raise ConfigurationError(f"security takes rio.Key objects, got {type(key).__name__}")
        if key.id in found:
            raise ConfigurationError(f"two keys have the id {key.id!r}: give each one of its own")
        found[key.id] = key
    if not found:
        raise ConfigurationError("security without a key protects nothing: `rio keygen` makes one")
    return found


# --- the file -------------------------------------------------------------------------------------


class _KeyTable(msgspec.Struct, forbid_unknown_fields=True):
    """A table ``[[keys]]`` of the file."""

    id: str
    role: str
    secret: str
    allow: tuple[str, ...] = ("*",)


class _TokenTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A table ``[[http.tokens]]`` of the file."""

    id: str
    token: str


class _HttpTable(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The table ``[http]`` of the file."""

    tokens: tuple[_TokenTable, ...] = ()
    certificate: str | None = None
    private_key: str | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    keys: tuple[_KeyTable, ...] = ()
    encryption: str | None = None
    certificate: str | None = None
    private_key: str | None = None
    ca: tuple[str, ...] = ()
    http: _HttpTable = _HttpTable()


def read_credentials(path: Path) -> Credentials:
    """The credentials in a file. Paths in it are relative to its folder.

    :raises ConfigurationError: the file cannot be read, others than its owner can read it too, or
        it cannot be used; the text never shows a secret.
    """
    stamp = stamp_of(path)
    text = read_private(path)
    try:
        table = _parse(text)
        credentials = Credentials(
            tuple(_read_key(each) for each in table.keys),
            encryption=cast(Encryption | None, table.encryption),  # checked there
            certificate=_beside(path, table.certificate),
            private_key=_beside(path, table.private_key),
            ca=tuple(_file_beside(path, each) for each in table.ca),
            http=_read_http(path, table.http),
        )
        credentials.files[path] = stamp
        return credentials
    except ConfigurationError as error:
        raise ConfigurationError(f"the security file {path}: {error.message}") from None


def _parse(text: str) -> _File:
    """:raises ConfigurationError: this is no security file."""
    import tomllib  # few programs read such a file

    try:
        return msgspec.convert(tomllib.loads(text), _File)
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        # a ValueError is a TOMLDecodeError, or about a number of thousands of digits
        raise ConfigurationError(f"it is not of the right form: {error}") from None


def _read_key(table: _KeyTable) -> Key:
    secret = decode_secret(table.secret, table.id)
    return Key(table.id, cast(Role, table.role), secret, table.allow)


def _read_http(path: Path, table: _HttpTable) -> HttpAccess:
    """:raises ConfigurationError: two tokens have one id."""
    tokens = {each.id: each.token for each in table.tokens}
    if len(tokens) < len(table.tokens):
        raise ConfigurationError("two HTTP tokens have the same id: give each one of its own")
    return HttpAccess(tokens, _beside(path, table.certificate), _beside(path, table.private_key))


def _beside(path: Path, name: str | None) -> Path | None:
    return None if name is None else _file_beside(path, name)


def _file_beside(path: Path, name: str) -> Path:
    """:raises ConfigurationError: no file can have this name."""
    if "\0" in name:
        raise ConfigurationError(f"{name!r:.200} names no file")
    return path.parent / name


def add_key(path: Path, key: Key, encryption: str | None) -> None:
    """Add a key at the end of a file, which is made if it is not there. ``encryption``: what a new
    file says; ``None``: nothing.

    :raises ConfigurationError: the file cannot be used or written, has a key of this id, or exists
        and an encryption is given.
    """
    try:
        text = read_private(path) if path.exists() else ""
        if text and encryption is not None:
            raise ConfigurationError(f"{path} exists: what it says of encryption stays")
        if encryption is not None:
            text = f'encryption = "{encryption}"\n\n'
        text = f"{text}{write_key(key)}\n"
        _by_id(map(_read_key, _parse(text).keys))
        write_private(path, text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from None


def name_certificates(path: Path, certificate: str | None, ca: str) -> None:
    """Have a file name the file with the certificate of a server and its key, and that of the
    authority. The file is made if it is not there.

    :raises ConfigurationError: it cannot be used or written, or names others.
    """
    try:
        text = read_private(path) if path.exists() else ""
        table = _parse(text)
        if (table.certificate, table.private_key) == (certificate, certificate) and ca in table.ca:
            return
        if table.certificate or table.private_key or table.ca or table.encryption:
            raise ConfigurationError(
                f"{path} names other certificates, or an encryption: take these lines out first"
            )
        if certificate is not None and path.with_name(certificate).exists():
            raise ConfigurationError(
                f"{path.with_name(certificate)} exists, and is not named there"
            )
        lines = [("certificate", certificate), ("private_key", certificate), ("ca", [ca])]
        write_private(path, f"{_write_table(lines if certificate else lines[2:])}\n{text}")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from None


def add_token(path: Path, id: str, token: str) -> None:
    """Add an HTTP token at the end of a file of servers.

    :raises ConfigurationError: the file cannot be used or written, or has a token of this id.
    """
    table = _write_table([("id", id), ("token", token)])
    text = f"{read_private(path)}\n[[http.tokens]]\n{table}"
    try:
        _read_http(path, _parse(text).http)
        write_private(path, text)
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from None


def write_token(path: Path, token: str) -> None:
    """Write a token alone, as collectors read it, to a file that only its owner may read.

    :raises ConfigurationError: it cannot be written.
    """
    try:
        write_private(path, f"{token}\n")
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be written: {error.strerror or error}") from None


def write_key(key: Key) -> str:
    """A key as it stands in a file."""
    lines: list[tuple[str, Any]] = [("id", key.id), ("role", key.role)]
    lines.append(("secret", encode_secret(key.secret)))
    if key.allow != ("*",):
        lines.append(("allow", list(key.allow)))
    return f"[[keys]]\n{_write_table(lines)}"


def _write_table(lines: Iterable[tuple[str, Any]]) -> str:
    return "".join(f"{name} = {msgspec.json.encode(value).decode()}\n" for name, value in lines)
