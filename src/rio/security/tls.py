"""The encryption of connections: TLS 1.3, by the key itself or by certificates."""

from __future__ import annotations

import hmac
import math
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar, cast

from rio.errors import ConfigurationError
from rio.security.keys import Key

CAN_USE_KEYS: bool = getattr(ssl, "HAS_PSK", False)
"""Whether this Python can encrypt by a key: CPython can from 3.13 on."""


class KeyTls:
    """TLS by a pre-shared key: a server accepts each of ``keys``.

    :raises ConfigurationError: this Python cannot do that.
    """

    expiries: ClassVar[dict[Path, float]] = {}
    """A key does not expire."""

    def __init__(self, keys: Iterable[Key]) -> None:
        if not CAN_USE_KEYS:
            raise ConfigurationError(
                "this Python cannot encrypt by a key (3.13 and later can): give the security"
                ' certificates, or say encryption = "none" for a network that nobody else can read'
            )
        secrets = {key.id: _derive(key) for key in keys}
        context = _context(ssl.PROTOCOL_TLS_SERVER)
        cast(Any, context).set_psk_server_callback(lambda id: secrets.get(id or "", b""))  # 3.13
        self.server: ssl.SSLContext | None = context

    def client(self, key: Key) -> ssl.SSLContext:
        """What a client encrypts with that holds ``key``."""
        secret = _derive(key)
        context = _context(ssl.PROTOCOL_TLS_CLIENT)
        context.verify_mode = ssl.CERT_NONE  # the server has the key, and no certificate
        cast(Any, context).set_psk_client_callback(lambda hint: (key.id, secret))  # 3.13
        return context


class CertificateTls:
    """TLS by certificates that one of the authorities ``ca`` has signed, whatever host names they
    have. A client needs none of its own, and ``server`` is ``None`` for who has none. A certificate
    of a node, ``is_node``, has to be good for both ends of a connection.

    :raises ConfigurationError: a file cannot be used, or others would refuse the certificate.
    """

    def __init__(
        self,
        certificate: Path | None,
        private_key: Path | None,
        ca: Iterable[Path],
        *,
        is_node: bool,
    ) -> None:
        self._certificate, self._private_key, self._ca = certificate, private_key, tuple(ca)
        self._client = self._load(_context(ssl.PROTOCOL_TLS_CLIENT))
        self.server: ssl.SSLContext | None = None
        if certificate is not None:
            self.server = context = self._load(_context(ssl.PROTOCOL_TLS_SERVER))
            context.verify_mode = ssl.CERT_OPTIONAL  # a node must have one, and a client may
            with _naming(certificate):
                context.digest = sha256(_first_certificate(certificate)).digest()
        self.expiries = {file: _find_end(file) for file in self._ca}
        """When what a file holds is not valid any more, in seconds of the Unix clock."""
        if all(end < time.time() for end in self.expiries.values()):
            raise ConfigurationError("all authorities that ca names have expired")
        if certificate is not None and self.server is not None:
            other = self._load(_context(ssl.PROTOCOL_TLS_CLIENT))
            other.verify_mode = ssl.CERT_REQUIRED if is_node else ssl.CERT_NONE
            with _naming(certificate):
                end = _rehearse(self.server, other)
            self.expiries[certificate] = min(end, _find_end(certificate))

    def client(self, key: Key) -> ssl.SSLContext:
        """What a client encrypts with."""
        return self._client

    def _load(self, context: Context) -> Context:
        for file in self._ca:
            with _naming(file):
                context.load_verify_locations(file)
        if self._certificate is not None:
            with _naming(self._certificate):
                context.load_cert_chain(self._certificate, self._private_key)
        return context


class PagesTls:
    """TLS for HTTP by a certificate, whoever has signed it. Clients show none.

    :raises ConfigurationError: a file cannot be used, or the certificate has expired.
    """

    def __init__(self, certificate: Path, private_key: Path) -> None:
        self.server = _context(ssl.PROTOCOL_TLS_SERVER)
        client = _context(ssl.PROTOCOL_TLS_CLIENT)
        client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # it trusts this certificate itself
        with _naming(certificate):
            self.server.load_cert_chain(certificate, private_key)
            client.load_verify_locations(certificate)
            end = _rehearse(self.server, client)
        self.expiries = {certificate: min(end, _find_end(certificate))}
        """As in :class:`CertificateTls`."""


class Context(ssl.SSLContext):
    """What connections are encrypted with."""

    digest = b""
    """The SHA-256 of the certificate that a server shows; empty if it has none."""


def digest_of_own(channel: ssl.SSLObject | None) -> bytes:
    """The SHA-256 of the certificate that this side, a server, has shown; empty if it has none. It
    may have another one by now.
    """
    used = None if channel is None else channel.context
    return used.digest if isinstance(used, Context) else b""


def digest_of_peer(channel: ssl.SSLObject | None) -> bytes:
    """The SHA-256 of the certificate that a server has shown; empty if it has none."""
    shown = None if channel is None else channel.getpeercert(binary_form=True)
    return b"" if shown is None else sha256(shown).digest()


def _context(protocol: int) -> Context:
    context = Context(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if protocol == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname = False  # the proof says who the server is, wherever it runs
    else:
        context.num_tickets = 0  # nobody resumes a session
    return context


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise ConfigurationError(
            f"others would refuse the certificate of {file}: {error.verify_message}"
        ) from error
    except (OSError, ValueError) as error:  # an SSLError is an OSError
        raise ConfigurationError(f"{file} cannot be used for TLS: {error}") from error


def _find_end(file: Path) -> float:
    """When the first of the authorities in a file expires."""
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    with _naming(file):
        context.load_verify_locations(file)
    return min((_end_of(each) for each in context.get_ca_certs()), default=math.inf)


def _rehearse(server: ssl.SSLContext, client: ssl.SSLContext) -> float:
    """Have a server and a client with the same certificate, or none, meet in memory. Returns when
    it expires.

    :raises ssl.SSLError: one of the two refuses it.
    """
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for _ in range(2):
        for end in ends:
            with suppress(ssl.SSLWantReadError):
                end.do_handshake()
    return _end_of(ends[0].getpeercert() or ends[1].getpeercert() or {})


def _end_of(certificate: Mapping[str, Any]) -> float:
    return ssl.cert_time_to_seconds(certificate["notAfter"])


def _derive(key: Key) -> bytes:
    """The pre-shared key of TLS. It is not the secret itself, which makes the proofs."""
    return hmac.digest(key.secret, b"rio/2 tls", "sha256")


def _first_certificate(file: Path) -> bytes:
    """The certificate of a chain's end, in DER."""
    _, begin, rest = file.read_text().partition("-----BEGIN CERTIFICATE-----")
    body, end, _ = rest.partition("-----END CERTIFICATE-----")
    return ssl.PEM_cert_to_DER_cert(begin + body + end)
