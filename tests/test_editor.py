"""What an editor offers and shows while somebody writes against our API."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.language_server import LanguageServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SOURCES = Path(__file__).parents[1] / "src"
PAGE = Path(__file__).parents[1] / "docs" / "clients.md"
PROGRAM = """
import rio


class Add(rio.Message[int]):
    item: str


class Count(rio.Message[int]):
    pass


class Cart(rio.ServiceObject):
    @rio.handler
    async def add(self, message: Add) -> int:
        '''Put an item into the cart.'''
        self.
        return 1

    @rio.handler(timeout=3.0)
    def count(self, message: Count, app: rio.AppData) -> int:
        '''How many items there are.'''
        return 1


async def use(client: rio.Client) -> None:
    cart = client.ref(Cart, "ada")
    client.
    cart.
    await cart.add(Add("apple"))
    await cart.count(Count())
"""
OF_A_CLIENT = {
    "admin",
    "close",
    "members",
    "ping",
    "ref",
    "send",
    "start",
    "subscribe",
    "tell",
    "timeout",
}
OF_A_REFERENCE = {"id", "object_id"}
OF_THE_OBJECTS_OWN_CODE = {
    "address",
    "after_load",
    "app_data",
    "before_load",
    "before_shutdown",
    "keep_alive",
    "leaving",
    "load",
    "load_state",
    "object_weight",
    "publish",
    "ref",
    "save_state",
    "send",
    "shutdown",
    "task_failed",
    "tasks",
    "tell",
    "timers",
    "token",
}


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LanguageServer]:
    if find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    folder = tmp_path_factory.mktemp("editor")
    with LanguageServer(folder, PROGRAM, sources=SOURCES) as server:
        yield server


def test_a_client_offers_what_the_page_describes_and_nothing_else(editor: LanguageServer) -> None:
    assert editor.complete("    client.") == OF_A_CLIENT
    page = PAGE.read_text()
    assert [name for name in OF_A_CLIENT if f"client.{name}" not in page] == []


def test_a_reference_offers_its_handlers_and_what_the_page_says_of_the_objects_own_code(
    editor: LanguageServer,
) -> None:
    """A reference has the type of its class, as ``self`` has, so a checker cannot tell them apart.
    What an object uses of itself is offered too, and raises; nothing else may join it unseen.
    """
    offered = editor.complete("    cart.")
    assert offered == {"add", "count"} | OF_A_REFERENCE | OF_THE_OBJECTS_OWN_CODE
    assert editor.complete("        self.") == offered


@pytest.mark.parametrize(
    ("name", "shown", "doc"),
    [
        ("add", "add: BoundHandler[Add, int]", "Put an item into the cart."),
        ("count", "count: BoundHandler[Count, int]", "How many items there are."),
    ],
)
def test_a_handler_shows_its_message_its_reply_and_its_docstring(
    editor: LanguageServer, name: str, shown: str, doc: str
) -> None:
    hover = editor.hover(f"cart.{name}")
    assert shown in hover
    assert doc in hover


def test_a_call_of_a_handler_shows_its_arguments(editor: LanguageServer) -> None:
    assert editor.signature("cart.add(") == (
        "(message: Add, /, *, timeout: float | None = None) -> Awaitable[int]"
    )
