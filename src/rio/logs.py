"""Loggers that raise nothing: a log that fails changes nothing of what the program does. And what
is logged of those who make trouble without an end.
"""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

REPORT_INTERVAL = 1.0
"""Seconds between two lines of the log about the same kind of trouble."""

_find_marks: Callable[[], Mapping[str, str]] = dict


def mark_records(find_marks: Callable[[], Mapping[str, str]]) -> None:
    """Have each record say more than its text, as the trace in which it was written."""
    global _find_marks
    _find_marks = find_marks


class Logger(logging.LoggerAdapter[logging.Logger]):
    """The standard library's logger of that name. Filters and handlers are the program's own, and
    what they raise comes out of the call that logs: in the middle of a release, or of a callback of
    the event loop. Here it goes to stderr, with what could not be logged.

    A ``KeyboardInterrupt`` passes: it comes from the keyboard, whatever runs at that moment.
    """

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name))

    def process(
        self, msg: Any, kwargs: MutableMapping[str, Any]
    ) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(kwargs.get("extra") or {}), **_find_marks()}
        return msg, kwargs

    def log(self, level: int, msg: object, *args: Any, stacklevel: int = 1, **options: Any) -> None:
        try:
            super().log(level, msg, *args, stacklevel=stacklevel + 1, **options)
        except KeyboardInterrupt:
            raise
        except BaseException as problem:
            _print(_text_of(msg, args), options.get("exc_info"), problem)


class SparingLog:
    """Logs at most once a second of each kind of trouble, whoever makes a thousand of it.

    ``now``: seconds.
    """

    def __init__(self, logger: Logger, now: Callable[[], float]) -> None:
        self._logger = logger
        self._now = now
        self._counts: dict[str, int] = {}
        self._next: dict[str, float] = {}

    def warn(self, kind: str, text: str, *args: Any) -> None:
        """Say it, or count it for the next line of this kind."""
        self.log(logging.WARNING, kind, text, *args)

    def log(self, level: int, kind: str, text: str, *args: Any) -> bool:
        """Say it and return true, or count it for the next line of this kind."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        now = self._now()
        if now < self._next.get(kind, -math.inf):
            return False
        self._next[kind] = now + REPORT_INTERVAL
        self._logger.log(level, f"{text} (%d times in all)", *args, self._counts[kind])
        return True


def _text_of(msg: object, args: tuple[Any, ...]) -> str:
    try:
        return str(msg) % args if args else str(msg)
    except BaseException:  # perhaps it is the text that cannot be made
        return str(msg)


def _print(text: str, logged: object, problem: BaseException) -> None:
    """The last, plain word about what could not be logged."""
    cause = f": {_name(logged)}" if isinstance(logged, BaseException) else ""
    stderr = sys.__stderr__
    if stderr is not None:  # as in a process without a console
        with suppress(OSError, ValueError):
            print(f"rio: {text}{cause} (not logged: {_name(problem)})", file=stderr)


def _name(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:
        return type(error).__name__
