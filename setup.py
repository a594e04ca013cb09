"""Builds the native half of roipool. Metadata and dependencies are in pyproject.toml.

Environment:
    CC, CXX, MAX_JOBS       as torch.utils.cpp_extension understands them
    ROIPOOL_CUDA=0          no CUDA kernels, even where there is nvcc
    FORCE_CUDA=1            CUDA kernels, or an error where there is no nvcc
    CUDA_HOME               the CUDA toolkit; else that of the nvcc on PATH
    TORCH_CUDA_ARCH_LIST    the architectures, "8.0 9.0+PTX" say; else all from 7.5 on that nvcc knows
    ROIPOOL_WERROR=1        warnings are errors, and so is a CUDA kernel that spills registers (our own CI)
    ROIPOOL_SANITIZE        sanitizers for the CPU library, "address,undefined" or "thread" say; their runtime libraries
                            must be preloaded into the Python that imports it (CONTRIBUTING.md)
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from glob import glob
from pathlib import Path

import pybind11
from setuptools import setup
from torch.utils import cpp_extension
from torch.utils.cpp_extension import BuildExtension, CppExtension

# The oldest torch whose stable ABI the library needs: 2.10. Whatever torch it is built beside, it runs on every torch
# from this one on.
TORCH_TARGET_VERSION = "0x020a000000000000"
DEFINES = [("TORCH_TARGET_VERSION", TORCH_TARGET_VERSION)]
CUDA_ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
WERROR = os.environ.get("ROIPOOL_WERROR") == "1"
SANITIZERS = os.environ.get("ROIPOOL_SANITIZE")


def compile_flags() -> list[str]:
    if sys.platform == "win32":
        return ["/O2", "/fp:precise"]
    flags = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
    if WERROR:
        flags += ["-Wall", "-Wextra", "-Werror", *torch_headers_as_system()]
    if SANITIZERS:
        flags += [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-g1", "-fno-omit-frame-pointer"]
    return flags


def torch_headers_as_system() -> list[str]:
    """torch's own headers are not ours to warn about."""
    return [flag for path in cpp_extension.include_paths() for flag in ["-isystem", path]]


# ---- CUDA.


def nvcc_output(nvcc: Path | str, *arguments: str) -> str:
    return subprocess.run([nvcc, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def find_nvcc() -> Path | None:
    """nvcc in its toolkit. The one on PATH is asked where that is: it may be a script that calls another."""
    if os.environ.get("ROIPOOL_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    on_path = shutil.which("nvcc")
    if home:
        nvcc = Path(home) / "bin" / "nvcc"
    elif on_path:
        where = re.search(r"_HERE_=(.*)", nvcc_output(on_path, "--dryrun", "-x", "cu", os.devnull))
        nvcc = Path(where[1]) / "nvcc" if where else None
    else:
        nvcc = None
    if os.environ.get("FORCE_CUDA") == "1" and (nvcc is None or not nvcc.exists()):
        found = f"CUDA_HOME is {home!r}, and nvcc on PATH is {on_path!r}"
        raise RuntimeError(f"FORCE_CUDA=1 asks for CUDA kernels, but there is no nvcc: {found}")
    return nvcc if nvcc and nvcc.exists() else None


def cuda_architectures(nvcc: Path) -> list[str]:
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if chosen:
        return chosen.replace(";", " ").split()
    known = nvcc_output(nvcc, "--list-gpu-arch").split()
    architectures = [name for name in CUDA_ARCHITECTURES if f"compute_{name.replace('.', '')}" in known]
    return [*architectures[:-1], f"{architectures[-1]}+PTX"]


def cuda_extension(nvcc: Path):
    """roipool._C_cuda: the CUDA kernels, a library to itself, because only a torch with CUDA can load it.

    It needs no such torch to be built beside, only the toolkit. cpp_extension would not look for one beside a torch
    without CUDA, and would insist on the version that a torch with CUDA was built with; through the stable ABI, with
    the runtime linked in, neither matters.
    """
    home = nvcc.parents[1]
    cpp_extension.CUDA_HOME = str(home)
    cpp_extension._check_cuda_version = lambda *_: None
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(cuda_architectures(nvcc))
    threads = os.environ.get("MAX_JOBS") or str(os.cpu_count())
    flags = ["-O3", "-fmad=false", "-Xcompiler=-fvisibility=hidden", f"--threads={threads}"]
    # Nothing tells ninja which headers nvcc has read, beside a torch without CUDA: another command line does.
    headers = sorted(Path("csrc").glob("*.h"))
    flags.append(f"-DROIPOOL_HEADERS={hashlib.sha256(b''.join(path.read_bytes() for path in headers)).hexdigest()}")
    if WERROR:
        flags += ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror", *torch_headers_as_system()]
        flags += ["-Xptxas=--warn-on-spills,--warn-on-local-memory-usage"]
    extension = CppExtension(
        "roipool._C_cuda",
        glob("csrc/cuda/*.cu"),
        include_dirs=[os.path.abspath("csrc")],
        define_macros=[*DEFINES, ("USE_CUDA", None)],
        extra_compile_args={"cxx": [], "nvcc": flags},
        # A torch with CUDA resolves what libtorch.so alone does not have, once it is loaded.
        extra_link_args=[
            *["-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"],
            *[f"-L{home}/lib64", f"-L{home}/lib", "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
        ],
        depends=glob("csrc/*.h"),
    )
    extension.libraries = []
    return extension


def cpu_extension(nvcc: Path | None):
    """roipool._C: the pybind11 module, the schemas and the CPU kernels in one shared object."""
    defines = list(DEFINES)
    if nvcc:
        version = re.search(r"release ([\d.]+)", nvcc_output(nvcc, "--version"))[1]
        defines.append(("ROIPOOL_CUDA_VERSION", f'"{version}"'))
        defines.append(("ROIPOOL_CUDA_ARCHITECTURES", f'"{" ".join(cuda_architectures(nvcc))}"'))
    extension = CppExtension(
        "roipool._C",
        ["csrc/module.cpp", "csrc/library.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
        include_dirs=[os.path.abspath("csrc"), pybind11.get_include()],
        define_macros=defines,
        extra_compile_args=compile_flags(),
        depends=glob("csrc/*.h") + glob("csrc/cpu/*.h"),
    )
    # CppExtension also links c10 and torch_python, which a library on the stable ABI has no business with.
    extension.libraries = ["torch", "torch_cpu"]
    if SANITIZERS:
        extension.extra_link_args = [f"-fsanitize={SANITIZERS}"]
    return extension


nvcc = find_nvcc()
setup(
    ext_modules=[cpu_extension(nvcc), *([cuda_extension(nvcc)] if nvcc else [])],
    cmdclass={"build_ext": BuildExtension},
)
