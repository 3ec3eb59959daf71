"""pyright's language server, as an editor talks to it: JSON-RPC over pipes."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

COMMAND = [
    sys.executable,
    "-c",
    "import sys; from pyright.langserver import entrypoint; sys.exit(entrypoint())",
    "--stdio",
]


class LanguageServer:
    """Has one file open in a folder of its own; :meth:`complete` and :meth:`hover` ask at the end
    of the first occurrence of a text.
    """

    def __init__(self, folder: Path, text: str, *, sources: Path) -> None:
        self._uri = (folder / "use.py").as_uri()
        self._text = text
        self._numbers = itertools.count()
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._settings = {
            "python": {"pythonPath": sys.executable},
            "python.analysis": {"extraPaths": [str(sources)]},
        }
        root = {"uri": folder.as_uri(), "name": "folder"}
        self._ask("initialize", processId=None, capabilities=CAPABILITIES, workspaceFolders=[root])
        self._put(method="initialized", params={})
        self._put(
            method="textDocument/didOpen",
            params={
                "textDocument": {
                    "uri": self._uri,
                    "languageId": "python",
                    "version": 1,
                    "text": text,
                }
            },
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def complete(self, text: str) -> set[str]:
        """The names that are offered, without those that begin with an underscore."""
        answer = self._ask("textDocument/completion", **self._end_of(text))
        return {item["label"] for item in answer["items"] if not item["label"].startswith("_")}

    def hover(self, text: str) -> str:
        """What is shown about the last name of ``text``."""
        return str(self._ask("textDocument/hover", **self._end_of(text, -1))["contents"]["value"])

    def signature(self, text: str) -> str:
        """What is shown of the arguments while a call is written."""
        answer = self._ask("textDocument/signatureHelp", **self._end_of(text))
        return str(answer["signatures"][0]["label"])

    def _end_of(self, text: str, shift: int = 0) -> dict[str, Any]:
        before = self._text[: self._text.index(text) + len(text) + shift].split("\n")
        return {
            "textDocument": {"uri": self._uri},
            "position": {"line": len(before) - 1, "character": len(before[-1])},
        }

    def _ask(self, method: str, **params: Any) -> Any:
        number = next(self._numbers)
        self._put(id=number, method=method, params=params)
        while True:
            message = self._get()
            if "method" in message and "id" in message:
                self._put(id=message["id"], result=self._answer(message))
            elif message.get("id") == number:
                return message["result"]

    def _answer(self, question: dict[str, Any]) -> Any:
        if question["method"] != "workspace/configuration":
            return None
        return [self._settings.get(item["section"]) for item in question["params"]["items"]]

    def _put(self, **message: Any) -> None:
        assert self._process.stdin is not None
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._process.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
        self._process.stdin.flush()

    def _get(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        length = 0
        while line := self._process.stdout.readline().strip():
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        assert length, "the language server has ended"
        message: dict[str, Any] = json.loads(self._process.stdout.read(length))
        return message


CAPABILITIES = {
    "workspace": {"configuration": True},
    "textDocument": {"hover": {"contentFormat": ["markdown"]}, "completion": {}},
}
