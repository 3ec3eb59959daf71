"""What ``make release-check`` asks before a release: do version, changelog and tag agree?

It prints the section of the changelog, which becomes the text of the release. It needs nothing
but Python.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADING = r"^## \[{}\](.*)$"
DATED = re.compile(r" - \d{4}-\d\d-\d\d")


class NotReady(Exception):
    """The text says what has to be changed first."""


def notes(changelog: str, version: str, tag: str) -> str:
    """The section of the changelog about ``version``; an empty ``tag`` stands for a dry run.

    :raises NotReady: this is not what the tag may release.
    """
    if not tag:
        return section(changelog, "Unreleased") or section(changelog, version)
    if tag != f"v{version}":
        raise NotReady(f"the tag is {tag!r}, and pyproject.toml has the version {version!r}")
    if not DATED.fullmatch(heading(changelog, version)):
        raise NotReady(f"CHANGELOG.md has no section '## [{version}] - YEAR-MONTH-DAY'")
    if left := section(changelog, "Unreleased"):
        raise NotReady(f"CHANGELOG.md has lines under [Unreleased]: {left.splitlines()[0]!r}")
    return section(changelog, version)


def heading(changelog: str, name: str) -> str:
    """What stands behind the name in a heading; empty if there is no such section."""
    found = re.search(HEADING.format(re.escape(name)), changelog, re.MULTILINE)
    return found[1] if found else ""


def section(changelog: str, name: str) -> str:
    """The text of a section, without its heading; empty if there is no such section."""
    parts = re.split(HEADING.format(re.escape(name)), changelog, maxsplit=1, flags=re.MULTILINE)
    if len(parts) == 1:
        return ""
    return re.split(r"^## ", parts[-1], maxsplit=1, flags=re.MULTILINE)[0].strip()


def main(arguments: list[str]) -> int:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    try:
        print(notes(changelog, project["version"], "".join(arguments)))
    except NotReady as problem:
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
