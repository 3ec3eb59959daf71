"""A server that has no file descriptors left says so, a few times, and goes on when it has some."""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Any

import pytest

from rio.server.descriptors import REPEAT, Descriptors


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "rio.server"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
def test_a_lack_of_descriptors_is_told_once_a_minute_and_so_is_its_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def no_pipe() -> Any:
        raise OSError(number, os.strerror(number))

    caplog.set_level(logging.INFO, logger="rio.server")
    time = [0.0]
    descriptors = Descriptors(lambda: time[0])
    descriptors.look()
    assert lines(caplog) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe", no_pipe)
        for _ in range(1000):
            descriptors.look()
            time[0] += 0.1
    assert len(lines(caplog)) == 1 + int(100 // REPEAT)
    assert "no new connection can be accepted" in lines(caplog)[0]
    descriptors.look()
    descriptors.look()
    assert lines(caplog)[-1] == "there are descriptors again: new connections are accepted"
    assert len(lines(caplog)) == 2 + int(100 // REPEAT)


@pytest.mark.skipif(sys.platform != "linux", reason="needs the limits of Linux")
def test_the_lack_is_seen_where_it_is_real_and_nothing_is_left_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    import resource  # here, because Windows has none

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    descriptors = Descriptors(lambda: 0.0)
    before = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        descriptors.look()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    descriptors.look()
    assert len(lines(caplog)) == 2
    assert len(os.listdir("/proc/self/fd")) == before
