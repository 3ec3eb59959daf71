"""Simulated servers log thousands of warnings, which show only where one seed is replayed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from rio.testing import VirtualTimeLoop
from tests.effort import ONE


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    logger = logging.getLogger("rio")
    level = logger.level
    logger.setLevel(logging.INFO if ONE else logging.CRITICAL)
    if ONE:
        logging.setLogRecordFactory(_with_virtual_time)
    yield
    logger.setLevel(level)
    logging.setLogRecordFactory(logging.LogRecord)


def _with_virtual_time(*fields: object, **more: object) -> logging.LogRecord:
    record = logging.LogRecord(*fields, **more)  # type: ignore[arg-type]  # as it is called
    loop = asyncio._get_running_loop()
    if isinstance(loop, VirtualTimeLoop):
        record.msg = f"{loop.true_time():8.3f} {record.msg}"
    return record
