"""A tag releases what its name says, with the notes of the changelog, or nothing."""

from __future__ import annotations

import pytest

from tests.release import NotReady, notes

READY = """# Changelog

## [Unreleased]

## [0.2.0] - 2026-12-01

### Added

- Something.

## [0.1.0] - 2026-11-01

- More.
"""


def test_the_notes_are_the_section_of_the_version() -> None:
    assert notes(READY, "0.2.0", "v0.2.0") == "### Added\n\n- Something."


@pytest.mark.parametrize(
    ("changelog", "version", "tag", "problem"),
    [
        (READY, "0.2.0", "v0.2.1", "the tag is 'v0.2.1', and pyproject.toml has"),
        (READY, "0.2.0", "0.2.0", "the tag is '0.2.0'"),
        (READY, "0.3.0", "v0.3.0", "no section"),
        (READY.replace("2026-12-01", "unreleased"), "0.2.0", "v0.2.0", "no section"),
        (READY.replace("[0.2.0]", "[0x2.0]"), "0.2.0", "v0.2.0", "no section"),
        (READY.replace("d]\n", "d]\n\n- New.\n"), "0.2.0", "v0.2.0", "lines under"),
    ],
)
def test_a_tag_that_fits_neither_version_nor_changelog_releases_nothing(
    changelog: str, version: str, tag: str, problem: str
) -> None:
    with pytest.raises(NotReady, match=problem.replace("[", r"\[")):
        notes(changelog, version, tag)


def test_a_dry_run_shows_what_would_be_released() -> None:
    unreleased = READY.replace("d]\n", "d]\n\n- New.\n")
    assert notes(unreleased, "0.1.0", "") == "- New."
    assert notes(READY, "0.2.0", "") == "### Added\n\n- Something."
