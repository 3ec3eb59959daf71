"""What the documentation shows is true: its files compile, its sessions print what they say, its
links and names lead somewhere.

A ``python`` block whose first line is ``# some/name.py`` is a complete file. The files and the
``console`` blocks of a page are one session, in a folder of its own: ``$ `` begins a command, what
follows is its output, in which ``...`` stands for anything on a line, and alone on a line for any
lines. A command that ends in ``&`` goes on in the background once its output is there. Commands
that only a reader can run are in ``sh`` blocks. Any other ``python`` block is a fragment, and has
to parse.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import rio
from rio.cli.commands import COMMANDS
from rio.cli.program import parse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w/]+\.py)\n")
LINK = re.compile(r"(?<!!)\[[^]\n]*]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
DOTTED = re.compile(r"\brio(?:\.[A-Za-z_]\w*)+")
CODE_SPAN = re.compile(r"`([^`\n]+)`")

PATIENCE = 30.0
"""Seconds that one command may take."""


class Block(NamedTuple):
    language: str
    text: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text()
    for match in BLOCK.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start()) + 2)


def prose_of(page: Path) -> str:
    return BLOCK.sub("", page.read_text())


# --- what stands in the blocks --------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_python_blocks_parse(page: Path) -> None:
    for block in blocks_of(page):
        if block.language == "python":
            flags = 0 if FILE.match(block.text) else ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
            compile(
                "\n" * (block.line - 1) + block.text, str(page), "exec", flags | ast.PyCF_ONLY_AST
            )


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_names_of_the_package_exist(page: Path) -> None:
    code = [block.text for block in blocks_of(page) if block.language == "python"]
    code += [span for span in CODE_SPAN.findall(prose_of(page)) if not span.startswith('"')]
    missing = {
        name
        for text in code
        for name in DOTTED.findall(text)
        if not exists(name) and not name.endswith((".py", ".db", ".service"))
    }
    assert missing == set()


def exists(dotted: str) -> bool:
    """Whether ``rio.errors.Gap``, a module or an attribute of one, is there."""
    parts = dotted.split(".")
    for size in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:size]))
        except ModuleNotFoundError:
            continue
        for name in parts[size:]:
            found = getattr(found, name, None)
        return found is not None
    return False


# --- links ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = [
        target
        for target in LINK.findall(prose_of(page))
        if "://" not in target and not leads_somewhere(page, target)
    ]
    assert broken == []


def leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page if not path else (page.parent / path).resolve()
    return file.exists() and (not anchor or anchor in anchors_of(file))


def anchors_of(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in HEADING.findall(prose_of(page))
    }


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs" / "index.md"
    assert {f"{page.name}" for page in PAGES[1:]} - {"index.md"} <= {
        target.partition("#")[0] for target in LINK.findall(index.read_text())
    }


# --- sessions -------------------------------------------------------------------------------------


class Command(NamedTuple):
    text: str
    output: list[str]
    line: int


def commands_of(block: Block) -> list[Command]:
    commands: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        if line.startswith("$ "):
            commands.append(Command(line[2:], [], number))
        else:
            commands[-1].output.append(line)
    return commands


def pattern_of(output: list[str]) -> re.Pattern[str]:
    lines = [
        "(?:.*\n)*?" if line == "..." else re.escape(line).replace(re.escape("..."), ".*") + "\n"
        for line in output
    ]
    return re.compile("".join(lines))


class Shell:
    """One bash with job control, whose commands see this interpreter as ``python``, and ``rio``."""

    def __init__(self, folder: Path) -> None:
        tools = folder / ".tools"
        tools.mkdir()
        for name, arguments in (("python", ""), ("rio", "-m rio")):
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
            (tools / name).chmod(0o755)
        self._process = subprocess.Popen(
            ["bash", "-m"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={
                **os.environ,
                "PATH": f"{tools}:{os.environ['PATH']}",
                "PYTHONPATH": str(Path(rio.__file__).parents[1]),
                "PYTHONUNBUFFERED": "1",
            },
            start_new_session=True,
        )

    def run(self, command: Command) -> str:
        """What it prints; of one that goes on in the background, what it prints until it is all
        there.
        """
        if command.text.endswith("&"):
            self._write(f"{{ {command.text} }} 2>&1\n")
            return self._read(re.compile(f"^{pattern_of(command.output).pattern}"))
        self._write(f"{{ {command.text}\n}} 2>&1; echo '[done]'\n")
        return self._read(re.compile(r"\[done]\n$")).removesuffix("[done]\n")

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode())
        self._process.stdin.flush()

    def _read(self, until: re.Pattern[str]) -> str:
        assert self._process.stdout is not None
        output, deadline = b"", time.monotonic() + PATIENCE
        while not until.search(output.decode()):
            ready, _, _ = select.select(
                [self._process.stdout], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                return f"{output.decode()}\n(and nothing more within {PATIENCE:g} seconds)\n"
            chunk = os.read(self._process.stdout.fileno(), 65536)
            if not chunk:
                return f"{output.decode()}\n(and then the shell ended)\n"
            output += chunk
        return output.decode()

    def close(self) -> None:
        self._write("kill -KILL $(jobs -p)\nwait\nexit\n")
        self._process.communicate(timeout=PATIENCE)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    if shutil.which("bash") is None:
        pytest.skip("the sessions are for bash")
    shell = Shell(tmp_path)
    yield shell
    shell.close()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_sessions_print_what_they_say(page: Path, shell: Shell, tmp_path: Path) -> None:
    for block in blocks_of(page):
        file = FILE.match(block.text) if block.language == "python" else None
        if file:
            path = tmp_path / file[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text)
        elif block.language == "console":
            for command in commands_of(block):
                printed = shell.run(command)
                assert pattern_of(command.output).fullmatch(printed), (
                    f"{page.name}, line {command.line}: {command.text}\n"
                    f"--- printed\n{printed}--- instead of\n" + "\n".join(command.output)
                )


def test_the_readme_shows_a_bank_that_runs() -> None:
    commands = [
        command.text
        for block in blocks_of(PAGES[0])
        if block.language == "console"
        for command in commands_of(block)
    ]
    assert "python bank.py &" in commands
    assert "python client.py" in commands


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_of_the_command_line_names_each_command_and_its_options(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that the environment can give; one row stands for all settings of the cluster."""
    page = (ROOT / "docs" / "cluster.md").read_text()
    assert f"| `rio {command}" in page
    with pytest.raises(SystemExit):
        parse([command, "--help"], {})
    options, _, _ = capsys.readouterr().out.partition("settings of the cluster:")
    named = re.findall(r"\[environment:\s+(RIO_\w+)", options)
    assert [name for name in named if not re.search(rf"^\| .*`{name}\b", page, re.MULTILINE)] == []
