"""What users of Linux get. ``make wheels`` runs this; it needs the network, and some minutes.

One sdist, and from it a wheel for each CPython that ``[tool.cibuildwheel]`` names, as far as this
machine has it or uv can fetch it. Each wheel is tried in an empty environment outside the checkout.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.wheels import steps

EPOCH = "1700000000"

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="session")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return steps.build_sdist(tmp_path_factory.mktemp("sdist"), SOURCE_DATE_EPOCH=EPOCH)


@pytest.fixture(scope="session", params=steps.versions())
def python(request: pytest.FixtureRequest) -> str:
    """The path of an interpreter of each version."""
    version: str = request.param
    try:
        return steps.find_python(version)
    except AssertionError as error:
        pytest.skip(f"no CPython {version} is here, and uv can fetch none: {error}")


@pytest.fixture(scope="session")
def wheel(python: str, sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repaired wheel of one version."""
    out = tmp_path_factory.mktemp("wheel")
    return steps.build_wheel(sdist, python, out, SOURCE_DATE_EPOCH=EPOCH)


def test_the_steps_here_follow_all_of_the_configuration() -> None:
    assert set(steps.CONFIGURATION) == steps.FOLLOWED


@pytest.mark.parametrize("platform", steps.PLATFORMS)
def test_cibuildwheel_builds_for_each_version_and_processor(platform: str) -> None:
    printed = steps.run(
        steps.TOOLS / "cibuildwheel",
        "--print-build-identifiers",
        *("--platform", platform, "--archs", "all"),
    )
    built = {name.split("-", 1)[0] for name in printed.split()}
    assert built == {f"cp{version.replace('.', '')}" for version in steps.versions()}
    assert steps.PLATFORMS[platform].keys() <= {name.split("-", 1)[1] for name in printed.split()}
    assert not [name for name in printed.split() if name.endswith(("_i686", "-win32"))]


def test_two_builds_of_one_commit_are_the_same_to_the_byte(sdist: Path, tmp_path: Path) -> None:
    again = steps.build_sdist(tmp_path, SOURCE_DATE_EPOCH=EPOCH)
    assert digest(again) == digest(sdist)
    wheels = [
        steps.build_wheel(each, steps.TOOLS / "python", tmp_path / name, SOURCE_DATE_EPOCH=EPOCH)
        for name, each in (("first", sdist), ("second", again))
    ]
    assert digest(wheels[0]) == digest(wheels[1])


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_index_takes_the_files(sdist: Path, wheel: Path) -> None:
    steps.run(steps.TOOLS / "twine", "check", "--strict", sdist, wheel)


def test_the_wheel_runs_on_systems_of_the_last_ten_years(wheel: Path) -> None:
    """glibc 2.17 is that of 2012."""
    assert f"manylinux_2_17_{steps.MACHINE}" in wheel.name


def test_the_wheel_is_small(wheel: Path) -> None:
    assert wheel.stat().st_size < 1_500_000


def test_the_wheel_passes_the_tests_of_cibuildwheel(
    python: str, wheel: Path, tmp_path: Path
) -> None:
    interpreter = steps.create_environment(tmp_path / "environment", python, wheel)
    steps.install_test_groups(interpreter)
    print(steps.run_test_command(interpreter, steps.copy_test_sources(tmp_path / "tests")))


def test_a_new_user_can_follow_the_readme_and_the_tutorial(
    python: str, wheel: Path, tmp_path: Path
) -> None:
    """Servers and clients as processes, from an empty folder, with the wheel and nothing else."""
    interpreter = steps.create_environment(tmp_path / "environment", python, wheel)
    assert steps.run(interpreter.parent / "rio", "--version", cwd=tmp_path).startswith("rio ")
    steps.install_test_groups(interpreter)
    sources = steps.copy_test_sources(tmp_path / "pages")
    for name in ("README.md", "docs"):
        copy = shutil.copytree if (steps.ROOT / name).is_dir() else shutil.copy
        copy(steps.ROOT / name, sources / name)
    pages = ("README.md", "docs/tutorial.md")
    steps.run(
        *(interpreter, "-m", "pytest", "-p", "no:cacheprovider"),
        *(f"tests/docs/test_docs.py::test_sessions_print_what_they_say[{page}]" for page in pages),
        cwd=sources,
    )


def test_the_sdist_builds_and_passes_its_tests_without_network(sdist: Path, tmp_path: Path) -> None:
    """Beyond what it declares: the requirements of build, package and tests are there already.

    On one version: the wheels of all of them are built from this archive too.
    """
    shutil.unpack_archive(sdist, tmp_path, filter="data")
    [source] = tmp_path.glob("rio_actors-*")
    interpreter = steps.create_environment(tmp_path / "environment", steps.TOOLS / "python")
    steps.install_test_groups(interpreter)
    steps.uv("pip", "install", "--quiet", "--python", interpreter, "--group", "build")
    steps.uv("pip", "install", "--quiet", "--python", interpreter, "-r", "pyproject.toml")
    install = ("pip", "install", "--quiet", "--offline", "--no-build-isolation", "--no-deps")
    python_of = ("--python", interpreter)
    offline = without_network()
    steps.run(*offline, steps.TOOLS / "uv", *install, *python_of, "--editable", ".", cwd=source)
    steps.run(*offline, interpreter, "-m", "pytest", "-q", "tests/core", cwd=source)


def without_network() -> list[str]:
    """The beginning of a command that sees no network, where the system lets us take it away."""
    command = ["unshare", "--map-root-user", "--net"]
    if shutil.which(command[0]) is None:
        return []
    allowed = subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0
    return command if allowed else []
