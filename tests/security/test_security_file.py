"""The security file: what it says, who may read it, and what happens when it changes."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import rio
from rio.errors import ConfigurationError
from rio.security.credentials import write_key
from rio.security.private_file import is_private

NODE = rio.Key("node", "node", b"secret of the nodes " * 2)
WEB = rio.Key("web", "call", b"secret of the web " * 2, ("Account.*",))
PLAIN = 'encryption = "none"\n'


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    """Put a file in the place of the one that is there."""
    new = path.with_suffix(".new")
    new.touch()
    new.chmod(mode)
    new.write_text(text)
    return new.replace(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "rio.toml", PLAIN + write_key(NODE) + write_key(WEB))


def test_a_file_says_what_was_written(path: Path) -> None:
    credentials = rio.Security.from_file(path)._trust.credentials
    assert list(credentials.keys.values()) == [NODE, WEB]
    assert credentials.own_key() == credentials.own_key("node") == NODE
    assert credentials.encryption == "none"


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such mode there")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_file_that_others_can_read_is_refused(path: Path, mode: int) -> None:
    path.chmod(mode)
    with pytest.raises(
        ConfigurationError, match=f"others than its owner may read {path} .*chmod 600 {path}"
    ):
        rio.Security.from_file(path)


@pytest.mark.parametrize(
    ("mode", "owner", "reader", "expected"),
    [
        (0o600, 1000, 1000, True),
        (0o400, 0, 0, True),
        (0o440, 0, 1000, True),
        (0o640, 0, 1000, True),
        (0o660, 0, 1000, False),
        (0o444, 0, 1000, False),
        (0o440, 0, 0, False),
        (0o440, 1000, 1000, False),
        (0o440, 1001, 1000, False),
    ],
)
def test_a_file_of_root_may_be_read_by_the_group_of_a_process_in_a_container(
    mode: int, owner: int, reader: int, expected: bool
) -> None:
    assert is_private(mode, owner, reader) is expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "security without a key protects nothing"),
        ("nonsense", "Expected '='"),
        ("colour = 1", "unknown field `colour`"),
        ('[[keys]]\nid = "a"\nrole = "node"', "missing required field `secret`"),
        ('[[keys]]\nid = "a"\nrole = "node"\nsecret = "topsecret!"', "of key 'a' is not in base64"),
        (write_key(NODE).replace("node", "root"), "a role is one of"),
        (write_key(NODE) * 2, "two keys have the id 'node'"),
        (
            'encryption = "rot13"\n' + write_key(NODE),
            "encryption is one of key, certificates, none",
        ),
        ('ca = ["ca.pem"]\n' + write_key(NODE), "ca.pem cannot be used for TLS: .*No such file"),
        ('encryption = "certificates"\n' + write_key(NODE), "certificates need ca"),
        (PLAIN + 'ca = ["ca.pem"]\n' + write_key(NODE), "'none' takes no certificate"),
        (
            'certificate = "a.pem"\nca = ["ca.pem"]\n' + write_key(NODE),
            "certificate and private_key go together",
        ),
        ("a = " + "9" * 5000, "it is not of the right form"),
        ("a = " + "[" * 5000, "it is not of the right form"),
        ('ca = ["a\\u0000b"]\n' + write_key(NODE), "names no file"),
        ('certificate = "a\\u0000b"\n' + write_key(NODE), "names no file"),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_shows_no_secret(
    tmp_path: Path, text: str, problem: str
) -> None:
    path = write(tmp_path / "rio.toml", text)
    with pytest.raises(ConfigurationError, match=problem) as caught:
        rio.Security.from_file(path)
    assert str(path) in str(caught.value)
    assert "topsecret" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"^\S+nowhere\.toml cannot be read: No such file"):
        rio.Security.from_file(tmp_path / "nowhere.toml")


def test_a_changed_file_is_read_again(path: Path) -> None:
    security = rio.Security.from_file(path)._trust
    before = security.credentials
    security.refresh()
    assert security.credentials is before
    write(path, PLAIN + write_key(NODE))
    security.refresh()
    assert list(security.credentials.keys) == ["node"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("nonsense", "Expected '='"),
        (PLAIN + write_key(WEB), "has no key of role 'node' any more"),
    ],
)
def test_a_new_file_that_cannot_be_used_leaves_the_old_one_in_force(
    path: Path, text: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    security = rio.Security.from_file(path)._trust
    before = security.credentials
    write(path, text)
    for _ in range(3):
        security.refresh()
    assert security.credentials is before
    assert caplog.text.count("the credentials stay as they were") == 1
    assert problem in caplog.text
    write(path, PLAIN + write_key(NODE))
    security.refresh()
    assert security.credentials is not before


def test_a_file_that_is_gone_leaves_the_old_one_in_force(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    security = rio.Security.from_file(path)._trust
    path.unlink()
    security.refresh()
    assert list(security.credentials.keys) == ["node", "web"]
    assert "cannot be read" in caplog.text


def test_the_environment_names_the_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RIO_SECURITY", str(path.with_name("nowhere.toml")))
    with pytest.raises(ConfigurationError, match="nowhere"):
        rio.Client("memory://")
    with pytest.raises(ConfigurationError, match="nowhere"):
        rio.Server(rio.Registry(), storage="memory://")


def test_security_of_a_wrong_type_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"takes a rio\.Security or the path .* got int"):
        rio.Client("memory://", security=5)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match=r"takes rio\.Key objects, got str"):
        rio.Security(["secret"])  # type: ignore[list-item]  # that is the test
