"""Who audits behind a mirror of packages is told that nothing was audited."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.audit import main

ANSWERS = {
    "/known": (200, b'{"info": {}, "vulnerabilities": [{"id": "PYSEC-2023-228"}]}'),
    "/forgetful": (200, b'{"info": {}, "vulnerabilities": []}'),
    "/packages-only": (200, b'{"info": {}}'),
    "/page": (200, b"<!DOCTYPE html>"),
    "/missing": (404, b""),
}


class Index(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        code, body = ANSWERS[self.path]
        self.send_response(code)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def index() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_an_index_that_knows_vulnerabilities_can_be_asked(index: str) -> None:
    assert main(f"{index}/known") == 0


@pytest.mark.parametrize("page", ["forgetful", "packages-only", "page", "missing"])
def test_an_index_that_does_not_know_them_is_said_to_be_out_of_reach(
    index: str, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(f"{index}/{page}") == 1
    assert capsys.readouterr().err.startswith("nothing was audited: ")


def test_no_answer_is_said_to_be_none(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        assert main(f"http://127.0.0.1:{taken.getsockname()[1]}/known") == 1
    assert capsys.readouterr().err.startswith("nothing was audited: ")
