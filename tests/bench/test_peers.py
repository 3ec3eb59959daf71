"""The rules of the comparison with other systems: only loopback sockets, and pinned versions."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from pathlib import Path

import pytest

from bench.peers import processes

PEERS = Path(__file__).parents[2] / "bench" / "peers"
REQUIREMENTS = sorted((PEERS / "requirements").glob("*.txt"))

linux = pytest.mark.skipif(not Path("/proc/self/net").exists(), reason="reads /proc")


@pytest.mark.parametrize(
    ("printed", "address"),
    [
        ("0100007F:1F90", "127.0.0.1"),
        ("00000000:1F90", "0.0.0.0"),
        ("00000000000000000000000001000000:1F90", "::1"),
        ("00000000000000000000000000000000:1F90", "::"),
        ("0000000000000000FFFF00000100007F:1F90", "127.0.0.1"),
    ],
)
def test_addresses_are_read_as_the_kernel_prints_them(
    printed: str, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.byteorder", "little")
    assert processes.parsed(printed) == (ip_address(address), 8080)


@linux
def test_a_listening_socket_is_found_and_one_on_loopback_is_let_be() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert (ip_address("127.0.0.1"), listener.getsockname()[1]) in processes.listeners(
            os.getpid()
        )
        processes.refuse_listeners_beyond_loopback(os.getpid())


@linux
@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.1", "::"])
def test_one_beyond_loopback_stops_the_run(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "listeners", lambda process: iter([(ip_address(address), 8080)]))
    with pytest.raises(RuntimeError, match=f"listens on {address} port 8080, beyond loopback"):
        processes.refuse_listeners_beyond_loopback(os.getpid())


@pytest.mark.parametrize("requirements", REQUIREMENTS, ids=lambda path: path.stem)
def test_a_peer_has_a_module_and_pins_everything_that_it_needs(requirements: Path) -> None:
    assert (PEERS / f"{requirements.stem}.py").exists()
    lines = requirements.read_text().splitlines()
    assert lines
    if lines == ["# none: cargo builds it"]:
        assert (PEERS / "rust" / "Cargo.lock").exists()
    else:
        assert all("==" in line or line == "-r rio.txt" for line in lines)
