"""What Linux tells about a process and its descendants: CPU time, and listening sockets."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from bench.processes import cpu_seconds
from tests.servers import children

LISTENING = "0A"
"""The state of a listening socket in ``/proc/PID/net/tcp``."""


def family(process: int) -> list[int]:
    """The process, its children, their children, and so on."""
    return [process, *(relative for child in children(process) for relative in family(child))]


def cpu_used(processes: list[int]) -> dict[int, float]:
    """The CPU seconds that each process has used so far. Processes that have ended are left out."""
    used = {}
    for process in processes:
        with suppress(OSError):
            used[process] = cpu_seconds(process)
    return used


def machine_cpu_seconds() -> float:
    """CPU seconds of the whole machine, used or withheld by its host, to the hundredth."""
    ticks = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = ticks
    return (user + nice + system + interrupts + soft_interrupts + stolen) / os.sysconf("SC_CLK_TCK")


def refuse_listeners_beyond_loopback(process: int) -> None:
    """Check that the process and its descendants listen on loopback only.

    :raises RuntimeError: a TCP socket listens elsewhere; the text names the process and the
    address.
    """
    for relative in family(process):
        for address, port in listeners(relative):
            if not address.is_loopback:
                raise RuntimeError(
                    f"process {relative} ({name(relative)}) listens on"
                    f" {address} port {port}, beyond loopback"
                )


def listeners(process: int) -> Iterator[tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]]:
    """Address and port of each TCP socket that the process listens on."""
    own = sockets(process)
    for table in ("tcp", "tcp6"):
        with suppress(
            FileNotFoundError, ProcessLookupError
        ):  # the process has ended meanwhile, or there is no IPv6
            for line in Path(f"/proc/{process}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state, _, _, _, _, _, inode, *_ = line.split()
                if state == LISTENING and inode in own:
                    yield parsed(local)


def sockets(process: int) -> set[str]:
    """The inodes of the process's open sockets."""
    inodes = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in Path(f"/proc/{process}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                target = os.readlink(descriptor)
                if target.startswith("socket:["):
                    inodes.add(target[len("socket:[") : -1])
    return inodes


def parsed(local: str) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """The address that the kernel prints as words of four bytes in the machine's own order."""
    digits, port = local.split(":")
    words = (int(digits[start : start + 8], 16) for start in range(0, len(digits), 8))
    address = ipaddress.ip_address(b"".join(word.to_bytes(4, sys.byteorder) for word in words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address, int(port, 16)


def confined() -> bool:
    """Whether this process has no network but ``lo``: nothing outside can reach its children."""
    interfaces = [
        line.split(":")[0].strip()
        for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]
    ]
    return interfaces == ["lo"]


def name(process: int) -> str:
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return "ended"
