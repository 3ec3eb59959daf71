"""How long does ``import rio`` take beyond asyncio and msgspec, and how large is its wheel?"""

from __future__ import annotations

import io
import os
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import rio

TIMED = """
import asyncio, msgspec, time
began = time.process_time()
import rio
print(time.process_time() - began)
"""
STANDS_ON = """
import time
began = time.process_time()
import asyncio, msgspec
print(time.process_time() - began)
"""

ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
}
"""Compile the modules once, so that every measured process finds them compiled."""


def cpu_seconds(program: str) -> float:
    return float(
        subprocess.run(
            [sys.executable, "-c", program],
            check=True,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        ).stdout
    )


def test_import(benchmark: Any, report: Any) -> None:
    """CPU seconds in a fresh process each time, with page cache and byte code warm."""
    ours: list[float] = []
    others: list[float] = []
    cpu_seconds(TIMED)
    benchmark.pedantic(
        lambda: ours.append(cpu_seconds(TIMED)),
        setup=lambda: others.append(cpu_seconds(STANDS_ON)),
        rounds=15,
    )
    ours_took, others_took = statistics.median(ours) * 1e3, statistics.median(others) * 1e3
    report("import rio", ours_took, "ms", beside=("asyncio, msgspec", others_took), at_most=15)


def test_wheel(benchmark: Any, report: Any) -> None:
    """The files that a wheel holds, as it packs them."""
    packed = benchmark.pedantic(wheel, rounds=1)
    report("wheel for this Python", packed / 1e6, "MB", at_most=1.5)


def wheel() -> int:
    package = Path(rio.__file__).parent
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in contents(package):
            packed.write(path, path.relative_to(package.parent))
    return archive.tell()


def contents(package: Path) -> Iterable[Path]:
    suffixes = (".py", ".pyi", ".typed", EXTENSION_SUFFIXES[0])
    return (path for path in package.rglob("*") if path.name.endswith(suffixes))
