"""What users get: an sdist that builds, and a wheel that holds what it needs and nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

from tests.wheels import steps

ROOT = Path(__file__).parents[1]
SOURCES_OF_THE_CORE = {".pyx", ".pxd"}
BUILT = {".c", ".so", ".pyd", ".pyc"}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.args}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def package_files() -> set[str]:
    """The files of ``src/rio`` that belong into git, as ``rio/...``."""
    files = (
        path
        for path in (ROOT / "src" / "rio").rglob("*")
        if path.is_file() and path.suffix not in BUILT
    )
    return {path.relative_to(ROOT / "src").as_posix() for path in files}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist, and the wheel that was built from it, with the tools of this environment.

    ``make wheels`` builds with those alone that the build system asks for.
    """
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    return out


def test_the_sdist_holds_the_sources_and_nothing_built(dist: Path) -> None:
    [sdist] = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in package_files()} <= names
    assert {"README.md", "LICENSE", "SECURITY.md", "setup.py", "tests/conftest.py"} <= names
    assert not [name for name in names if Path(name).suffix in BUILT]


def test_the_wheel_holds_the_package_compiled_and_no_sources_of_the_core(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    compiled = {name for name in names if Path(name).suffix in {".so", ".pyd"}}
    package = package_files()
    assert {name for name in names if name.startswith("rio/")} - compiled == {
        name for name in package if Path(name).suffix not in SOURCES_OF_THE_CORE
    }
    assert {name.partition(".")[0] for name in compiled} == {
        name.removesuffix(".pyx") for name in package if name.endswith(".pyx")
    }


def test_the_wheel_works_in_an_empty_environment(dist: Path, tmp_path: Path) -> None:
    [wheel] = dist.glob("*.whl")
    venv.create(tmp_path)
    python = tmp_path / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", wheel)
    assert Path(run(python, "-I", "-c", "import rio; print(rio.__file__)").strip()).is_relative_to(
        tmp_path
    )
    assert "usage" in run(tmp_path / "bin" / "rio", "--help").lower()


def test_the_wheel_is_small_typed_and_says_what_its_licence_is(dist: Path) -> None:
    [wheel] = dist.glob("*.whl")
    assert wheel.stat().st_size < 1_500_000
    names = zipfile.ZipFile(wheel).namelist()
    assert "rio/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


@pytest.mark.parametrize("repository", ["", "somebody/rio"])
def test_the_page_of_the_package_has_no_link_that_works_in_the_repository_only(
    repository: str, tmp_path: Path
) -> None:
    command = (sys.executable, "setup.py", "--quiet", "egg_info", "--egg-base", str(tmp_path))
    subprocess.run(
        command, cwd=ROOT, check=True, env={**os.environ, "GITHUB_REPOSITORY": repository}
    )
    [information] = tmp_path.glob("*.egg-info/PKG-INFO")
    page = information.read_text()
    targets = re.findall(r"]\(([^)\s]+)\)", page)
    assert "https://github.com/rcelha/rio-rs" in targets
    assert [target for target in targets if not target.startswith("https://")] == []
    assert ("https://github.com/somebody/rio/blob/HEAD/docs/tutorial.md" in targets) == bool(
        repository
    )
    assert ("Project-URL: Repository, https://github.com/somebody/rio" in page) == bool(repository)


def test_the_tests_of_a_wheel_read_only_what_cibuildwheel_gives_them(tmp_path: Path) -> None:
    """With fewer examples than in a release; ``make wheels`` runs all, in empty environments."""
    folder = steps.copy_test_sources(tmp_path)
    assert " passed" in steps.run_test_command(Path(sys.executable), folder, RIO_QUICK="1")


def test_the_build_group_is_what_the_build_system_requires() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["dependency-groups"]["build"] == project["build-system"]["requires"]
