"""What the application hands to its objects."""

from __future__ import annotations

from abc import ABC

import pytest

from rio.errors import ConfigurationError
from rio.objects.app_data import AppData


class Clock(ABC):  # noqa: B024
    pass


class FixedClock(Clock):
    pass


class Settings:
    def __init__(self, size: int) -> None:
        self.size = size


def test_a_value_is_kept_under_its_own_class_only() -> None:
    app = AppData()
    clock = FixedClock()
    app.set(clock)
    assert app.get(FixedClock) is clock
    assert FixedClock in app
    assert Clock not in app


def test_a_value_can_be_kept_under_another_type() -> None:
    app = AppData()
    clock = FixedClock()
    app.set(clock, as_type=Clock)
    assert app.get(Clock) is clock
    assert FixedClock not in app


def test_a_later_value_replaces_an_earlier_one() -> None:
    app = AppData()
    app.set(1)
    app.set(2)
    assert app.get(int) == 2


def test_a_missing_value_is_an_error_that_says_what_to_set_and_what_is_there() -> None:
    app = AppData()
    with pytest.raises(
        ConfigurationError,
        match=r"no .*test_app_data\.Settings: call set\(Settings\(\.\.\.\)\).*It holds: nothing",
    ):
        app.get(Settings)
    app.set(1)
    with pytest.raises(ConfigurationError, match="It holds: int"):
        app.get(Settings)


def test_a_default_is_made_once_and_kept() -> None:
    app = AppData()
    clock = app.get_or_default(FixedClock)
    assert app.get_or_default(FixedClock) is clock is app.get(FixedClock)


def test_no_default_is_made_where_a_value_is_kept() -> None:
    app = AppData()
    app.set(Settings(3))
    assert app.get_or_default(Settings).size == 3


def test_a_falsy_value_is_a_value() -> None:
    app = AppData()
    app.set(0)
    assert app.get(int) == app.get_or_default(int) == 0


def test_a_type_that_needs_arguments_has_no_default() -> None:
    with pytest.raises(TypeError):
        AppData().get_or_default(Settings)
