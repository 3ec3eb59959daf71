"""An authority of a cluster's own, and the certificates that it signs. Needs ``cryptography``."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from rio.errors import ConfigurationError
from rio.security.private_file import read_private, write_private

CERTIFICATE, KEY = "ca.pem", "ca.key"
AUTHORITY_DAYS = 3650
CLOCK_SKEW = timedelta(hours=1)
"""How late the clocks of other machines may be to which a new certificate comes."""
_FOR_BOTH_SIDES = x509.ExtendedKeyUsage(
    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
)


class Authority:
    """What signs the certificates of a cluster. Its files are ``ca.pem`` and ``ca.key``."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self._certificate = certificate
        self._key = key

    @classmethod
    def found_in(cls, folder: Path) -> Self | None:
        """The authority of a folder, if there is one.

        :raises ConfigurationError: its files cannot be used.
        """
        own, secret = folder / CERTIFICATE, folder / KEY
        if not (own.exists() or secret.exists()):
            return None
        try:
            key = load_pem_private_key(read_private(secret).encode(), None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ConfigurationError(f"{secret} is none that rio keygen has made")
            return cls(x509.load_pem_x509_certificate(own.read_bytes()), key)
        except (OSError, ValueError, TypeError) as error:
            raise ConfigurationError(f"{own} and {secret} cannot be used: {error}") from error

    @classmethod
    def made_in(cls, folder: Path) -> Self:
        """A new authority, for ten years.

        :raises OSError: its files cannot be written.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name(f"rio authority {token_hex(4)}")  # no two that are trusted look the same
        end = datetime.now(UTC) + timedelta(days=AUTHORITY_DAYS)
        builder = _builder(name, name, key.public_key(), end)
        builder = builder.add_extension(x509.BasicConstraints(True, 0), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
        made = cls(builder.sign(key, hashes.SHA256()), key)
        write_private(folder / KEY, _private(key))
        write_private(folder / CERTIFICATE, _public(made._certificate))
        (folder / CERTIFICATE).chmod(0o644)  # it is for everybody
        return made

    def issue(self, file: Path, days: int, hosts: Iterable[str]) -> None:
        """Write a new certificate for a server, and its key, to one file: so they are replaced
        together. ``hosts``: the names and addresses under which HTTP clients know the server.

        :raises OSError: the file cannot be written.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        own_end = self._certificate.not_valid_after_utc
        end = min(own_end, datetime.now(UTC) + timedelta(days=days))
        builder = _builder(self._certificate.subject, _name(file.stem), key.public_key(), end)
        builder = builder.add_extension(x509.BasicConstraints(False, None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(_FOR_BOTH_SIDES, critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if names := [_general_name(host) for host in hosts]:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        write_private(file, _public(builder.sign(self._key, hashes.SHA256())) + _private(key))


def _builder(
    issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, end: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .issuer_name(issuer)
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - CLOCK_SKEW)
        .not_valid_after(end)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _public(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _private(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
