"""The compiled core, the links of the page on PyPI, and archives that two builds make alike.
Everything else is in pyproject.toml.

RIO_DEBUG=1 builds the core with assertions: ours, Cython's and CPython's.
RIO_SANITIZE=1 adds the sanitizers of GCC for addresses and for undefined behaviour.
GITHUB_REPOSITORY=owner/name, which every workflow has, is where the links lead.
SOURCE_DATE_EPOCH is the time of all files: two builds of one commit are the same to the byte.
"""

import gzip
import os
import re
import sys
import tarfile
import time
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.sdist import sdist

SANITIZE = os.environ.get("RIO_SANITIZE") == "1"
DEBUG = SANITIZE or os.environ.get("RIO_DEBUG") == "1"
SANITIZERS = ["-fsanitize=address,undefined", "-fno-omit-frame-pointer"] if SANITIZE else []

REPOSITORY = os.environ.get("GITHUB_REPOSITORY")
HOME = f"https://github.com/{REPOSITORY}"
LINK = re.compile(r"(!?)\[([^]]+)]\((?!\w+://)([^)\s]+)\)")


def leave_the_repository(link: re.Match[str]) -> str:
    """A relative link of the README as it works elsewhere, or its text if nobody knows where."""
    picture, text, target = link.groups()
    if REPOSITORY:
        return f"{picture}[{text}]({HOME}/{'raw' if picture else 'blob'}/HEAD/{target})"
    return "" if picture else text


class Archive(sdist):
    """What stands in it follows from the files alone: no owner, no order of a file system."""

    def make_archive(self, base_name, format, *, base_dir, **unused):
        moment = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))

        def strip(member):
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = moment
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        name = f"{base_name}.tar.gz"
        with (
            open(name, "wb") as file,
            gzip.GzipFile("", "wb", fileobj=file, mtime=moment) as packed,
            tarfile.open(fileobj=packed, mode="w") as archive,
        ):
            for path in (Path(base_dir), *sorted(Path(base_dir).rglob("*"))):
                archive.add(path, recursive=False, filter=strip)
        return name


extensions = [
    Extension(
        f"rio._core.{source.stem}",
        [source.as_posix()],
        define_macros=[] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", None)],
        extra_compile_args=["/O2"]
        if sys.platform == "win32"
        else ["-O3", *(["-g", "-UNDEBUG"] if DEBUG else ["-g0"]), *SANITIZERS],
        extra_link_args=SANITIZERS,
    )
    for source in sorted(Path("src/rio/_core").glob("*.pyx"))
]
setup(
    long_description=LINK.sub(leave_the_repository, Path("README.md").read_text("utf-8")),
    long_description_content_type="text/markdown",
    project_urls={
        "Repository": HOME,
        "Documentation": f"{HOME}/blob/HEAD/docs/index.md",
        "Changelog": f"{HOME}/blob/HEAD/CHANGELOG.md",
        "Issues": f"{HOME}/issues",
    }
    if REPOSITORY
    else {},
    ext_modules=cythonize(
        extensions,
        build_dir=f"build/{'sanitized' if SANITIZE else 'debug' if DEBUG else 'release'}",
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "autotestdict": False,
            "nonecheck": True,
        },
    ),
    cmdclass={"sdist": Archive},
    options={"build_ext": {"parallel": os.cpu_count()}},
)
