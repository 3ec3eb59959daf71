"""``rio keygen --certificates``: an authority, and the certificates that it signs."""

from __future__ import annotations

import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

import rio
from rio.cli.program import main
from rio.security.credentials import read_credentials, write_key
from tests.security.test_security_file import write
from tests.server.conftest import cluster, probe
from tests.server.harness import Cluster
from tests.server.test_security import Add, Counter

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="files have no such mode there")
__all__ = ["cluster", "probe"]


@pytest.fixture
def _nothing_is_swallowed() -> None: ...


@pytest.fixture
def servers(tmp_path: Path) -> Path:
    file = tmp_path / "servers.toml"
    assert keygen(file, "--certificates") == 0
    return file


def keygen(*arguments: str | Path) -> int:
    return main(["keygen", *map(str, arguments)])


def keys_of(file: Path) -> list[rio.Key]:
    return [*read_credentials(file).keys.values()]


def validity(certificate: Path) -> tuple[float, dict[str, Any]]:
    """Days for which it is valid, and what it says, as seen by a client that checks everything."""
    strict = ssl.create_default_context(cafile=str(certificate.with_name("ca.pem")))
    strict.verify_flags |= ssl.VERIFY_X509_STRICT
    strict.check_hostname = False
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = strict.wrap_bio(back, there), server.wrap_bio(there, back, server_side=True)
    for end in ends:
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    ends[0].do_handshake()
    said: Any = ends[0].getpeercert()
    begin, end = (ssl.cert_time_to_seconds(said[name]) for name in ("notBefore", "notAfter"))
    return (end - begin) / 86400, said


async def test_servers_and_a_client_encrypt_by_what_keygen_has_made(
    cluster: Cluster, servers: Path
) -> None:
    web = servers.with_name("web.toml")
    assert keygen(web, "--certificates", "--role", "call", "--also", servers) == 0
    two = write(servers.with_name("two.toml"), "".join(map(write_key, keys_of(servers))))
    assert keygen(two, "--certificates") == 0
    assert keys_of(two) == keys_of(servers)
    await cluster.server(Counter, security=servers)
    await cluster.server(Counter, security=two)
    client = await cluster.client(security=web)
    for id in "abcdef":
        assert await client.send(Counter, id, Add()) == 1


def test_who_can_read_what_keygen_makes(servers: Path) -> None:
    modes = {file.name: file.stat().st_mode & 0o777 for file in servers.parent.iterdir()}
    assert modes == {"ca.pem": 0o644, "ca.key": 0o600, "servers.pem": 0o600, "servers.toml": 0o600}


def test_a_certificate_is_made_anew_by_the_same_authority_for_so_many_days(servers: Path) -> None:
    own = servers.with_suffix(".pem")
    text, ca, before = servers.read_text(), own.with_name("ca.pem").read_bytes(), own.read_bytes()
    assert validity(own)[0] == pytest.approx(365, abs=0.1)
    assert (
        keygen(servers, "--certificates", "--days", "90", "--host", "a.example", "--host", "::1")
        == 0
    )
    days, said = validity(own)
    assert days == pytest.approx(90, abs=0.1)
    assert said["subjectAltName"] == (("DNS", "a.example"), ("IP Address", "0:0:0:0:0:0:0:1"))
    assert own.read_bytes() != before
    assert (servers.read_text(), own.with_name("ca.pem").read_bytes()) == (text, ca)
    assert keygen(servers, "--certificates", "--days", "9999") == 0
    assert validity(own)[0] == pytest.approx(3650, abs=0.1)


def test_a_file_of_keys_gets_certificates_and_keeps_its_keys(tmp_path: Path) -> None:
    file = tmp_path / "servers.toml"
    assert keygen(file, "--id", "first") == 0
    assert keygen(file, "--certificates") == 0
    credentials = read_credentials(file)
    assert [*credentials.keys] == ["first"]
    assert credentials.encryption == "certificates"


@pytest.mark.parametrize(
    ("name", "text", "options", "problem"),
    [
        ("b.toml", 'ca = ["x.pem"]\n', [], "b.toml names other certificates, or an encryption"),
        (
            "b.toml",
            'encryption = "none"\n',
            [],
            "b.toml names other certificates, or an encryption",
        ),
        ("b.toml", "", ["--encryption", "none"], "--certificates takes no --encryption"),
        ("ca.toml", "", [], "no file called ca"),
        ("b.toml", "", ["--role", "call"], "there is no ca.pem beside"),
        ("c.toml", "", [], "c.pem exists, and is not named there"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_is_written(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    text: str,
    options: list[str],
    problem: str,
) -> None:
    (tmp_path / "c.pem").touch()
    if text:
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    assert keygen(tmp_path / name, "--certificates", *options) == 1
    assert problem in capsys.readouterr().err
    assert not (tmp_path / "b.pem").exists()
    assert (tmp_path / "c.pem").read_text() == ""


def test_an_authority_without_its_key_signs_nothing(
    servers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    servers.with_name("ca.key").unlink()
    assert keygen(servers, "--certificates") == 1
    assert "ca.key cannot be read" in capsys.readouterr().err


def test_without_the_extra_the_error_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rio.security.authority", None)
    assert keygen(tmp_path / "servers.toml", "--certificates") == 1
    assert "pip install 'rio-actors[crypto]'" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []


def test_a_new_file_says_the_encryption_and_the_file_of_the_servers_keeps_its_own(
    tmp_path: Path,
) -> None:
    servers, web = tmp_path / "servers.toml", tmp_path / "web.toml"
    assert keygen(servers, "--encryption", "none") == 0
    assert keygen(web, "--role", "call", "--also", servers, "--encryption", "none") == 0
    assert read_credentials(web).encryption == read_credentials(servers).encryption == "none"
    assert len(keys_of(servers)) == 2
