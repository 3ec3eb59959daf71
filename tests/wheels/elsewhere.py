"""What a Linux machine can tell of other systems: the core compiles for them. ``make wheels`` runs
this.

The compiler and the headers of the systems come with zig, those of CPython from this machine, with
another ``pyconfig.h`` for Windows. That is not Microsoft's compiler, and nothing is run.
"""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
from pathlib import Path

import pytest

from tests.wheels import steps

TARGETS = ["x86_64-windows-gnu", "aarch64-macos", "x86_64-macos", "x86_64-linux-musl"]
SOURCES = sorted((steps.ROOT / "src" / "rio" / "_core").glob("*.pyx"))
PYTHON_API = re.compile(rb"(?<![a-zA-Z0-9])(?:__imp_)?(_?Py[A-Z_]\w+)")

pytestmark = pytest.mark.timeout(900)


def zig(*arguments: str | Path) -> str:
    return steps.run(sys.executable, "-m", "ziglang", *arguments)


@pytest.fixture(scope="session", params=SOURCES, ids=lambda path: path.stem)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each module as Cython writes it in C."""
    output = tmp_path_factory.mktemp("core") / f"{request.param.stem}.c"
    steps.run(sys.executable, "-m", "cython", "-3", request.param, "--output-file", output)
    return output


@pytest.fixture(scope="session")
def headers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The folders of CPython's headers, by the system."""
    here = Path(sysconfig.get_path("include"))
    windows = tmp_path_factory.mktemp("windows") / "include"
    shutil.copytree(here, windows)
    shutil.copy(Path(__file__).parent / "windows" / "pyconfig.h", windows)
    return {"windows": windows, "macos": here, "linux": here}


@pytest.mark.parametrize("target", TARGETS)
def test_the_core_compiles_for_other_systems(
    target: str, source: Path, headers: dict[str, Path], tmp_path: Path
) -> None:
    system = target.split("-")[1]
    compiled = tmp_path / f"{source.stem}.o"
    zig(
        *("cc", "-target", target, "-O0", "-g0", "-c", "-I", headers[system]),
        *(source, "-o", compiled),
    )
    if system == "windows":
        link_for_windows(compiled)


def link_for_windows(compiled: Path) -> None:
    """Link a module with the libraries of Windows: only CPython itself may be missing."""
    api = compiled.with_suffix(".def")
    names = sorted({name.decode() for name in PYTHON_API.findall(compiled.read_bytes())})
    api.write_text("\n".join(["LIBRARY python3.dll", "EXPORTS", *names]))
    library = compiled.with_suffix(".a")
    zig("dlltool", "-m", "i386:x86-64", "-d", api, "-l", library)
    module = compiled.with_suffix(".pyd")
    zig("cc", "-target", "x86_64-windows-gnu", "-shared", compiled, library, "-o", module)
    assert b"QueryPerformanceCounter" in module.read_bytes() or "clock" not in module.name
