"""What members tell about themselves, and which version is the current one."""

from __future__ import annotations

import msgspec
import pytest

import rio
from rio.cluster.manifest import (
    Manifest,
    TypeManifest,
    current_version,
    decode_manifest,
    make_manifest,
)
from rio.contracts.membership import Member, MembershipSnapshot, MemberStatus
from rio.errors import ConfigurationError


class Open(rio.Message[int]):
    pass


class Close(rio.Message[int]):
    pass


class Balance(rio.State):
    amount: int = 0


class Account(rio.ServiceObject):
    balance: Balance = rio.managed_state()

    @rio.handler
    def open(self, message: Open) -> int:
        return 1


def make_newer() -> type[rio.ServiceObject]:
    class NewAccount(rio.ServiceObject, type_name="Account"):
        balance: Balance = rio.managed_state()

        @rio.handler
        def open(self, message: Open) -> int:
            return 1

        @rio.handler
        def close(self, message: Close) -> int:
            return 2

    return NewAccount


def test_a_manifest_tells_which_messages_are_handled() -> None:
    manifest = decode_manifest(make_manifest(rio.Registry(Account)).encode())
    assert manifest.handles("Account", "Open")
    assert not manifest.handles("Account", "Close")
    assert not manifest.handles("Room", "Open")


def test_equal_programs_tell_the_same_and_others_do_not() -> None:
    one, two = make_manifest(rio.Registry(Account)), make_manifest(rio.Registry(Account))
    newer = make_manifest(rio.Registry(make_newer()))
    assert one.encode() == two.encode()
    assert newer.version != one.version
    assert newer.types["Account"].digest != one.types["Account"].digest


def test_a_manifest_that_is_too_long_is_refused_with_its_length() -> None:
    with pytest.raises(ConfigurationError, match="16384 are the limit"):
        rio.Server(rio.Registry(Account), storage="memory://", labels={"note": "x" * 20_000})


def test_what_another_version_has_written_tells_nothing() -> None:
    deep = b"\x81\xa4more" + b"\x91" * 5000 + b"\xc0"
    for data in (b"\xc1", b"\x01", b"", b"\x81\xa7version\xa1\xff", deep):
        assert decode_manifest(data) == Manifest()


def test_fields_of_a_newer_manifest_are_ignored() -> None:
    data = msgspec.msgpack.encode({"version": "2", "cordoned": True, "types": {}})
    assert decode_manifest(data) == Manifest(version="2")


def manifest_of(version: str) -> Manifest:
    return make_manifest(rio.Registry(Account), version=version)


@pytest.mark.parametrize(
    ("versions", "current"),
    [
        (["old", "old", "new"], "old"),
        (["old", "new", "new"], "new"),
        (["old", "new"], "new"),
        (["new", "old"], "old"),
        ([], ""),
    ],
)
def test_the_current_version_is_that_of_most_members_and_then_of_the_youngest(
    versions: list[str], current: str
) -> None:
    members = tuple(
        Member(number, f"h:{number}", MemberStatus.ACTIVE) for number, _ in enumerate(versions, 1)
    )
    manifests = {number: manifest_of(version) for number, version in enumerate(versions, 1)}
    assert current_version("Account", MembershipSnapshot(1, 9, members), manifests) == current


def test_members_that_drain_do_not_count_for_the_current_version() -> None:
    members = (
        Member(1, "h:1", MemberStatus.DRAINING),
        Member(2, "h:2", MemberStatus.DRAINING),
        Member(3, "h:3", MemberStatus.ACTIVE),
    )
    manifests = {1: manifest_of("a"), 2: manifest_of("a"), 3: manifest_of("b")}
    assert current_version("Account", MembershipSnapshot(1, 3, members), manifests) == "b"


def test_servers_of_different_types_do_not_differ_in_those_that_both_serve() -> None:
    class Other(rio.ServiceObject):
        pass

    one, both = make_manifest(rio.Registry(Account)), make_manifest(rio.Registry(Account, Other))
    assert one.version != both.version
    assert one.version_of("Account") == both.version_of("Account")
    given = make_manifest(rio.Registry(Account), version="7")
    assert given.version_of("Account") == "7"


async def test_servers_learn_what_the_others_tell() -> None:
    async with (
        rio.open_storage("memory://") as storage,
        rio.Server(rio.Registry(Account), storage=storage, cluster="local", version="1.0") as one,
        rio.Server(
            rio.Registry(make_newer()),
            storage=storage,
            cluster="local",
            version="2.0",
            labels={"zone": "eu"},
        ) as two,
    ):
        told = two._cluster.manifests
        assert told[one.generation].version == "1.0"
        assert not told[one.generation].handles("Account", "Close")
        assert told[two.generation].labels == {"zone": "eu"}
        assert isinstance(told[two.generation].types["Account"], TypeManifest)
