"""Builds the native half of roipool. Metadata and dependencies are in pyproject.toml.

Environment:
    CC, CXX, MAX_JOBS   as torch.utils.cpp_extension understands them
    ROIPOOL_WERROR=1    warnings are errors (our own CI)
"""

import os
import sys
from glob import glob

import pybind11
from setuptools import setup
from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths

# The oldest torch whose stable ABI the library needs: 2.10. Whatever torch it is built beside, it runs on every torch
# from this one on.
TORCH_TARGET_VERSION = "0x020a000000000000"
DEFINES = [("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)]


def compile_flags() -> list[str]:
    if sys.platform == "win32":
        return ["/O2", "/fp:precise"]
    flags = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
    if os.environ.get("ROIPOOL_WERROR") == "1":
        flags += ["-Wall", "-Wextra", "-Werror"]
        for path in include_paths():  # torch's own headers are not ours to warn about
            flags += ["-isystem", path]
    return flags


def cpu_extension():
    """roipool._C: the pybind11 module, the schemas and the CPU kernels in one shared object."""
    extension = CppExtension(
        "roipool._C",
        ["csrc/module.cpp", "csrc/library.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
        include_dirs=[os.path.abspath("csrc"), pybind11.get_include()],
        define_macros=DEFINES,
        extra_compile_args=compile_flags(),
    )
    # CppExtension also links c10 and torch_python, which a library on the stable ABI has no business with.
    extension.libraries = ["torch", "torch_cpu"]
    return extension


setup(
    ext_modules=[cpu_extension()],
    cmdclass={"build_ext": BuildExtension},
)
