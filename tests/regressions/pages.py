"""Whether the tests that a page names exist."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]


def exists(test: str) -> bool:
    """Whether a node id, ``path/to/file.py::Class::test_name``, names one test."""
    path, *names = test.split("::")
    scope: list[ast.stmt] = ast.parse((ROOT / path).read_text()).body
    for name in names:
        found = [
            node
            for node in scope
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == name
        ]
        if len(found) != 1:
            return False
        scope = found[0].body
    return names[-1].startswith("test_")
