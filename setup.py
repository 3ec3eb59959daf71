"""The compiled core. Everything else is in pyproject.toml.

RIO_DEBUG=1 builds it with None checks and with assertions: ours, Cython's and CPython's.
"""

import os
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

DEBUG = os.environ.get("RIO_DEBUG") == "1"

extensions = [
    Extension(
        f"rio._core.{source.stem}",
        [source.as_posix()],
        define_macros=[] if DEBUG else [("CYTHON_WITHOUT_ASSERTIONS", None)],
        extra_compile_args=["/O2"]
        if sys.platform == "win32"
        else ["-O3", *(["-g", "-UNDEBUG"] if DEBUG else ["-g0"])],
    )
    for source in sorted(Path("src/rio/_core").glob("*.pyx"))
]
setup(
    ext_modules=cythonize(
        extensions,
        build_dir="build/debug" if DEBUG else "build/release",
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "autotestdict": False,
            "nonecheck": DEBUG,
        },
    ),
    options={"build_ext": {"parallel": os.cpu_count()}},
)
