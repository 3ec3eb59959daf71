"""No text shows a password: whatever is in it, and whether its URL is right or wrong."""

import logging
import traceback
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote

import pytest

from rio.cli.program import main
from rio.errors import RioError
from rio.storage import open_storage
from rio.storage._url_form import show_url

BEGIN, END = "s3cret", "hu5h"
HOSTILE = [
    *"/?#@:[]%&=+;,!$'()*\\^`{|}~<>\" \t\n\0é\u2100\u0663\U0001f511",
    "",
    "://",
    "@h/",
    "/@",
    "?x=",
    "&password=",
    "%zz",
    "%00",
    "%ff",
    "[::1]",
    "]:6379/",
    "@[",
    "{0}",
    "%s",
    "\x1b[0m",
    "\u202e",
]
TEMPLATES = [
    "postgres://user:{}@127.0.0.1:1/db",
    "postgresql+asyncpg://user:{}@127.0.0.1:1/db",
    "postgres://127.0.0.1:1/db?user=user&password={}",
    "postgres://user:{}@127.0.0.1:port/db",
    "postgres://user:{}@127.0.0.1:1/db?sslmode=never",
    "postgres:user:{}@127.0.0.1/db",
    "redis://user:{}@127.0.0.1:1/0",
    "redis://:{}@127.0.0.1:1/bank",
    "rediss://user:{}@127.0.0.1:1/0?ssl_ca_certs=/missing",
    "redis://user:{}@127.0.0.1:1/0?bogus=1",
    "redis://127.0.0.1:1/0?password={}",
    "valkey://:{}@127.0.0.1:1/0",
    "http://user:{}@127.0.0.1:1",
    "http://127.0.0.1:1,user:{}@127.0.0.1:1",
    "sqlite://user:{}@127.0.0.1/a.db",
    "memory://user:{}@127.0.0.1",
    "user:{}@127.0.0.1/db",
]
URLS = [
    template.format(form)
    for template in TEMPLATES
    for hostile in HOSTILE
    for form in {f"{BEGIN}{hostile}{END}", quote(f"{BEGIN}{hostile}{END}", safe="")}
]


@pytest.fixture
def no_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connect once, to a port where nothing listens."""
    monkeypatch.setattr("rio.storage._connector.WAIT_TIMEOUT", 0.0)


def texts_of(error: BaseException) -> Iterator[str]:
    yield "".join(traceback.format_exception(error))
    yield repr(error)


async def use(url: str) -> list[str]:
    """Everything that is said when a storage is opened, shown and prepared."""
    texts = [show_url(url)]
    try:
        storage = open_storage(url)
        texts += [repr(storage), *map(repr, storage)]
        async with storage:
            pass
    except RioError as error:
        texts += texts_of(error)
    else:
        raise AssertionError(f"{show_url(url)} leads nowhere")
    return texts


async def test_a_hundred_hostile_passwords_and_urls_print_no_password(
    no_patience: None, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    assert len(HOSTILE) * len(TEMPLATES) > 100
    for url in URLS:
        for text in await use(url):
            assert BEGIN not in text, text
            assert END not in text, text
    printed = caplog.text + "".join(capsys.readouterr())
    assert BEGIN not in printed
    assert END not in printed


@pytest.mark.parametrize(
    "words", [["members", "--storage"], ["members", "--storage=memory://"], []]
)
def test_the_command_prints_no_password(
    words: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    for template in TEMPLATES[1], TEMPLATES[8], TEMPLATES[12], TEMPLATES[14]:
        for hostile in HOSTILE:
            with suppress(SystemExit):
                main([*words, template.format(f"{BEGIN}{hostile}{END}")])
    printed = "".join(capfd.readouterr())
    assert "rio" in printed
    assert BEGIN not in printed
    assert END not in printed


def test_a_shown_url_has_all_but_its_password_and_options() -> None:
    assert show_url("postgres://u:p@db:1/bank?x=1") == "postgres://u:***@db:1/bank"
    assert show_url("redis://cache/0") == "redis://cache/0"
    assert show_url("redis://u@cache/0") == "redis://u@cache/0"
    assert show_url("sqlite:///a@b.db") == "sqlite:///a@b.db"
