"""How fast are bytes cut into frames and frames put together, compiled and in plain Python?"""

from __future__ import annotations

import os
from types import ModuleType
from typing import Any

import pytest

from bench.figures import Work, in_turn
from rio._core import frame
from tests.core import twin

FRAMES = 64
REPEATED = 100
SIZES = pytest.mark.parametrize("size", [60, 64 * 1024], ids=["60 B", "64 KiB"])


@SIZES
def test_cutting_a_read_into_frames(benchmark: Any, report: Any, size: int) -> None:
    """64 small frames arrive in one read; a large frame arrives in many."""
    count = FRAMES if size < 1024 else 1
    data = (size.to_bytes(4, "big") + bytes(size)) * count

    def feed(core: ModuleType) -> Work:
        reader = core.FrameReader()

        def cut() -> None:
            for _ in range(REPEATED):
                assert len(reader.feed(data)) == count

        return Work(cut, REPEATED * count, os.getpid())

    compiled, plain = feed(frame), feed(twin)
    in_turn(benchmark, compiled, plain, rounds=50)
    report(
        f"cut a frame of {size} B from a read",
        compiled.cpu_micros * 1e3,
        "ns",
        beside=("twin", plain.cpu_micros * 1e3),
    )


@SIZES
def test_putting_answers_together(benchmark: Any, report: Any, size: int) -> None:
    count = FRAMES if size < 1024 else 1
    payload = bytes(size)

    def put(core: ModuleType) -> Work:
        writer = core.FrameWriter()

        def write() -> None:
            for _ in range(REPEATED):
                for id in range(1000, 1000 + count):
                    writer.put_response(id, payload)
                writer.take()

        return Work(write, REPEATED * count, os.getpid())

    compiled, plain = put(frame), put(twin)
    in_turn(benchmark, compiled, plain, rounds=50)
    report(
        f"put an answer of {size} B into a write",
        compiled.cpu_micros * 1e3,
        "ns",
        beside=("twin", plain.cpu_micros * 1e3),
    )
