"""Loggers that raise nothing, whatever the program's filters and handlers do."""

from __future__ import annotations

import asyncio
import io
import logging
import sys
from collections.abc import Iterator

import pytest

from rio.logs import Logger

NAME = "rio.a log that fails"


class Broken(logging.Handler):
    """A handler, and a filter, that raises."""

    def __init__(self, raised: BaseException) -> None:
        super().__init__()
        self.raised = raised

    def emit(self, record: logging.LogRecord) -> None:
        raise self.raised

    def filter(self, record: logging.LogRecord) -> bool:
        raise self.raised


class Mute:
    def __str__(self) -> str:
        raise SystemExit("no text")


@pytest.fixture
def logger() -> Iterator[Logger]:
    logger = Logger(NAME)
    yield logger
    logger.logger.handlers.clear()
    logger.logger.filters.clear()


def break_down(logger: Logger, where: str, raised: BaseException) -> None:
    broken = Broken(raised)
    if where == "a filter":
        logger.logger.addFilter(broken)
    elif where == "a filter of a handler":
        logger.logger.addHandler(broken)
    else:
        broken.filter = lambda record: True  # type: ignore[method-assign]
        logger.logger.addHandler(broken)


@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError, SystemExit, GeneratorExit])
@pytest.mark.parametrize("where", ["a filter", "a filter of a handler", "a handler"])
def test_what_a_filter_or_a_handler_raises_goes_to_stderr_with_what_it_did_not_log(
    logger: Logger,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
    raised: type[BaseException],
) -> None:
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    break_down(logger, where, raised("broken"))
    logger.error("%s failed", "Account/ada", exc_info=KeyError("a reason"))
    assert capsys.readouterr().err == (
        f"rio: Account/ada failed: KeyError: 'a reason' (not logged: {raised.__name__}: broken)\n"
    )


def test_what_has_no_text_is_no_reason_to_raise(
    logger: Logger, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "__stderr__", sys.stderr)
    logger.error("%s failed", Mute())
    assert "rio: %s failed (not logged: SystemExit: no text)" in capsys.readouterr().err


def test_a_closed_stderr_is_no_reason_to_raise(
    logger: Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_down(logger, "a filter", ValueError("broken"))
    closed = io.StringIO()
    closed.close()
    for stderr in (None, closed):
        monkeypatch.setattr(sys, "__stderr__", stderr)
        logger.error("nobody hears this")


def test_an_interrupt_from_the_keyboard_passes(logger: Logger) -> None:
    break_down(logger, "a handler", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        logger.error("somebody is in a hurry")


def test_a_record_names_the_line_that_logs(
    logger: Logger, caplog: pytest.LogCaptureFixture
) -> None:
    logger.warning("here")
    try:
        raise KeyError
    except KeyError:
        logger.exception("and there")
    assert {record.funcName for record in caplog.records} == {
        "test_a_record_names_the_line_that_logs"
    }
    assert [record.name for record in caplog.records] == [NAME, NAME]
