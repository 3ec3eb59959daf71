"""The tree of errors: the place of a class is its meaning, and its name follows one rule."""

from __future__ import annotations

import pickle

import pytest

import rio
from rio import errors
from rio.errors import (
    CallFailed,
    CallRefused,
    NotExecuted,
    OutcomeUnknown,
    ProtocolError,
    RioError,
    UnknownCode,
    from_code,
)

OUTCOMES = (NotExecuted, OutcomeUnknown, CallRefused, CallFailed)
"""The four answers to "may it have run?". Each is a condition of its own, with special cases."""


def all_below(cls: type[RioError]) -> list[type[RioError]]:
    return [each for child in cls.__subclasses__() for each in (child, *all_below(child))]


TREE = [RioError, *(cls for cls in all_below(RioError) if cls.__module__.startswith("rio."))]
OWN = [cls for cls in TREE if cls.__module__ == errors.__name__]
CODES = [cls for cls in TREE if "code" in cls.__dict__ and cls.code]


@pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)
def test_a_name_ends_in_error_exactly_where_it_is_a_family(cls: type[RioError]) -> None:
    is_family = bool(cls.__subclasses__()) and cls not in OUTCOMES
    assert cls.__name__.endswith("Error") == is_family


def test_every_error_of_rio_lives_in_one_module_but_for_those_of_applications() -> None:
    elsewhere = {cls for cls in TREE if cls not in OWN}
    assert elsewhere == {rio.ApplicationError, rio.UnknownApplicationError}


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.code)
def test_an_error_that_travels_says_whether_the_call_ran(cls: type[RioError]) -> None:
    assert issubclass(cls, (*OUTCOMES, ProtocolError))


@pytest.mark.parametrize("cls", CODES, ids=lambda cls: cls.code)
def test_a_code_stands_for_one_class(cls: type[RioError]) -> None:
    if cls is not rio.ApplicationError:
        assert type(from_code(cls.code, "text", [1])) is cls
    with pytest.raises(TypeError, match=f"{cls.code}.*already belongs to {cls.__name__}"):
        type("Twin", (RioError,), {"code": cls.code})


def test_an_unknown_code_promises_nothing_and_keeps_itself() -> None:
    error = from_code("of_a_newer_version", "what it says", [1, 2])
    assert isinstance(error, UnknownCode)
    assert isinstance(error, OutcomeUnknown)
    assert error.detail == ["of_a_newer_version", [1, 2]]
    assert "what it says" in str(error)


@pytest.mark.parametrize("cls", OWN, ids=lambda cls: cls.__name__)
def test_every_error_says_when_it_is_raised_and_survives_pickling(cls: type[RioError]) -> None:
    assert cls.__doc__
    error = cls(3) if cls is errors.Gap else cls("text", ["detail"])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again)) == (cls, str(error))
