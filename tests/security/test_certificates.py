"""Certificates that expire, or that others would refuse."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

import rio
from rio.errors import ConfigurationError

KEY = rio.Key("node", "node", b"secret of the nodes " * 2)
WEB = rio.Key("web", "call", b"secret of the web " * 2)
DAY = 86400.0
CASES = [("old", 9.5), ("new", 365.0), ("gone", -1.0)]
"""Authorities, and in how many days they expire."""


class Authority:
    """Signs certificates that are valid for so many days, or were until so many days ago."""

    def __init__(self, folder: Path, name: str = "ca", days: float = 3650) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.file = folder / f"{name}.pem"
        self._write(self.file, self._name, self._key, days, is_authority=True)

    def _write(
        self,
        file: Path,
        name: x509.Name,
        key: Any,
        days: float,
        *usages: x509.ObjectIdentifier,
        is_authority: bool,
    ) -> None:
        end = datetime.now(UTC) + timedelta(days=days)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(end - timedelta(days=3660))
            .not_valid_after(end)
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if usages:
            builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        private = key.private_bytes(serialization.Encoding.PEM, *form)
        public = certificate.public_bytes(serialization.Encoding.PEM)
        file.write_bytes(public if is_authority else private + public)

    def issue(self, name: str, days: float, *usages: x509.ObjectIdentifier) -> Path:
        file = self._folder / f"{name}.pem"
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        key = ec.generate_private_key(ec.SECP256R1())
        self._write(file, subject, key, days, *usages, is_authority=False)
        return file


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def security_of(own: Path | None, *ca: Path) -> rio.Security:
    return rio.Security([KEY], certificate=own, private_key=own, ca=ca)


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        (365, ""),
        (33, ""),
        (29.5, "WARNING node.pem expires in 29 days, on 20"),
        (0.5, "WARNING node.pem expires in 0 days, on 20"),
    ],
)
def test_the_log_warns_from_thirty_days_before_an_expiry_on_once_a_day(
    authority: Authority,
    days: float,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = authority.issue("node", days)
    security = security_of(own, authority.file)
    begin = datetime.now(UTC).timestamp()
    for hours in range(50):
        monkeypatch.setattr("time.time", lambda hours=hours: begin + 3600.0 * hours)
        security._trust.refresh()
    lines = [
        f"{record.levelname} {record.getMessage()}".replace(f"{own.parent}/", "")
        for record in caplog.records
    ]
    assert (lines[0] if lines else "").startswith(expected)
    assert len(lines) == (3 if expected else 0)


def test_an_authority_that_expires_is_warned_of_on_the_side_of_a_client_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old, new, gone = (Authority(tmp_path, name, days) for name, days in CASES)
    security = security_of(None, old.file, new.file, gone.file)
    security._trust.refresh()
    assert [(each.levelname, each.getMessage().split()[1]) for each in caplog.records] == [
        ("WARNING", "expires"),
        ("ERROR", "has"),
    ]
    assert "old.pem expires in 9 days" in caplog.text
    assert "gone.pem has expired on" in caplog.text


def test_a_certificate_that_has_expired_is_an_error_at_the_start(authority: Authority) -> None:
    own = authority.issue("node", -1)
    with pytest.raises(
        ConfigurationError,
        match=r"others would refuse the certificate of .*node\.pem: certificate has expired",
    ):
        security_of(own, authority.file)


def test_authorities_that_have_expired_are_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="all authorities that ca names have expired"):
        security_of(None, Authority(tmp_path, "gone", -1).file)


def test_a_certificate_of_an_authority_that_is_not_trusted_is_an_error_at_the_start(
    authority: Authority, tmp_path: Path
) -> None:
    own = authority.issue("node", 100)
    with pytest.raises(ConfigurationError, match=r"others would refuse .*local issuer certificate"):
        security_of(own, Authority(tmp_path, "other").file)


def test_a_certificate_for_clients_will_do_for_a_client_and_not_for_a_server(
    authority: Authority,
) -> None:
    own = authority.issue("client", 100, ExtendedKeyUsageOID.CLIENT_AUTH)
    client = rio.Security([WEB], certificate=own, private_key=own, ca=[authority.file])
    ends = client._trust.credentials.expiries
    assert ends[own] == pytest.approx(time.time() + 100 * DAY, abs=60)
    with pytest.raises(ConfigurationError, match=r"others would refuse .*certificate purpose"):
        security_of(own, authority.file)


def test_the_statistics_of_a_server_tell_when_the_first_certificate_expires(
    authority: Authority,
) -> None:
    registry = rio.Registry()
    for days, own in (100, 100), (3650, 3655):  # the authority itself has 3650
        security = security_of(authority.issue("node", own), authority.file)
        server = rio.Server(registry, storage="memory://", security=security)
        left = server.statistics().certificates_expire_in
        assert left == pytest.approx(days * DAY, abs=60)
    server = rio.Server(registry, storage="memory://")
    assert server.statistics().certificates_expire_in is None
