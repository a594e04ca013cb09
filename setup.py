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
import shlex
import shutil
import subprocess
import sys
import tempfile
from glob import glob
from pathlib import Path

import setuptools

try:
    import pybind11
    import torch
    from torch.utils import cpp_extension
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ImportError as error:
    raise SystemExit(
        f"roipool cannot be built here: {error} (`pip install torch pybind11 ninja`, or leave out "
        "--no-build-isolation, and pip brings what the build needs)"
    ) from None

if sys.platform != "linux":
    raise SystemExit(
        f"roipool needs Linux, and this is {sys.platform}: on Windows, build it in WSL; elsewhere, in a container"
    )

# The oldest of each to build with. That of torch is also the oldest to run on, whatever torch the library is built
# beside, because its stable ABI is all that the library needs.
OLDEST = {torch: (2, 10), pybind11: (2, 13), setuptools: (77,)}
for module, oldest in OLDEST.items():
    if tuple(int(number) for number in re.findall(r"\d+", module.__version__)[:2]) < oldest:
        needed = ".".join(map(str, oldest))
        raise SystemExit(
            f"roipool needs {module.__name__} {needed} or newer, and found {module.__version__} in {module.__path__[0]}"
        )

DEFINES = [("TORCH_TARGET_VERSION", "0x{:02x}{:02x}000000000000".format(*OLDEST[torch]))]
CUDA_ARCHITECTURES = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]
WERROR = os.environ.get("ROIPOOL_WERROR") == "1"
SANITIZERS = os.environ.get("ROIPOOL_SANITIZE")


def compile_flags() -> list[str]:
    flags = ["-O3", "-g0", "-ffp-contract=off", "-fvisibility=hidden"]
    if WERROR:
        flags += ["-Wall", "-Wextra", "-Werror", *torch_headers_as_system()]
    if SANITIZERS:
        flags += [*sanitizer_flags(), "-fno-sanitize-recover=all", "-g1", "-fno-omit-frame-pointer"]
    return flags


def sanitizer_flags() -> list[str]:
    return [f"-fsanitize={SANITIZERS}"] if SANITIZERS else []


def torch_headers_as_system() -> list[str]:
    """Tells the compiler not to warn about torch's own headers."""
    return [flag for path in cpp_extension.include_paths() for flag in ["-isystem", path]]


def sources(folder: str, suffix: str) -> list[str]:
    """Lists the files of a folder of csrc/, and of the folders in it."""
    return sorted(glob(f"csrc/{folder}/**/*{suffix}", recursive=True))


# ---- CUDA.


def cuda_headers() -> list[str]:
    """Lists every header that a CUDA source may include."""
    return [*sorted(glob("csrc/*.h")), *sources("ops", ".h"), *sources("cuda", ".h"), *sources("cuda", ".cuh")]


def ask_nvcc(nvcc: Path | str, pattern: str, *arguments: str) -> list[str]:
    """Returns what matches in nvcc's answer. An nvcc that is broken is an error, not a build without CUDA kernels."""
    command = [str(nvcc), *arguments]
    try:
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        answer = run.stdout
    except OSError as error:
        answer = str(error)
    found = re.findall(pattern, answer)
    if not found:
        said = " ".join(answer.split())[-200:] or "nothing"
        raise SystemExit(
            f"roipool's CUDA kernels need an nvcc that works, and `{shlex.join(command)}` says: {said} "
            "(ROIPOOL_CUDA=0 leaves them out)"
        )
    return found


def find_nvcc() -> Path | None:
    """Returns nvcc in its toolkit. The one on PATH is asked where that is, as it may be a script that calls another."""
    if os.environ.get("ROIPOOL_CUDA") == "0":
        return None
    home = os.environ.get("CUDA_HOME")
    on_path = shutil.which("nvcc")
    if home and (nvcc := Path(home) / "bin" / "nvcc").exists():
        return nvcc
    if on_path and not home:
        (folder, *_) = ask_nvcc(on_path, r"_HERE_=(.*)", "--dryrun", "-x", "cu", os.devnull)
        return Path(folder) / "nvcc"
    if os.environ.get("FORCE_CUDA") == "1":
        place = f"in CUDA_HOME, {home}" if home else "on PATH, and CUDA_HOME is not set"
        raise SystemExit(f"FORCE_CUDA=1 asks for roipool's CUDA kernels, but there is no nvcc {place}")
    return None


def cuda_architectures(nvcc: Path) -> list[str]:
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    if chosen:
        return chosen.replace(";", " ").split()
    known = ask_nvcc(nvcc, r"compute_\d+", "--list-gpu-arch")
    architectures = [name for name in CUDA_ARCHITECTURES if f"compute_{name.replace('.', '')}" in known]
    return [*architectures[:-1], f"{architectures[-1]}+PTX"]


def cuda_extension(nvcc: Path):
    """Describes libroipool_cuda: the CUDA kernels, a library to itself, because only a torch with CUDA can load it.

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
    # Tells ninja by another command line that a header has changed: beside a torch without CUDA, nothing else does.
    headers = b"".join(Path(path).read_bytes() for path in cuda_headers())
    flags.append(f"-DROIPOOL_HEADERS={hashlib.sha256(headers).hexdigest()}")
    if WERROR:
        # Clang finds functions in CUDA's own headers that are not used.
        warnings = "-Wall,-Wextra,-Werror,-Wno-unused-function"
        flags += ["-Werror=all-warnings", f"-Xcompiler={warnings}", *torch_headers_as_system()]
        flags += ["-Xptxas=--warn-on-spills,--warn-on-local-memory-usage"]
    extension = CppExtension(
        "roipool.libroipool_cuda",
        sources("cuda", ".cu"),
        include_dirs=[os.path.abspath("csrc")],
        define_macros=[*DEFINES, ("USE_CUDA", None)],
        extra_compile_args={"cxx": [], "nvcc": flags},
        # Links libtorch.so alone. What it does not have, a torch with CUDA resolves when it loads the library.
        extra_link_args=[
            *["-Wl,--no-as-needed", "-ltorch", "-Wl,--as-needed"],
            *[f"-L{home}/lib64", f"-L{home}/lib", "-lcudart_static", "-ldl", "-lrt", "-lpthread"],
            "-Wl,-soname,libroipool_cuda.so",
        ],
        depends=cuda_headers(),
    )
    extension.libraries = []
    return extension


# ---- Everything else.


def operators_extension(nvcc: Path | None):
    """Describes libroipool: the schemas and the CPU kernels, a library for programs with and without Python."""
    defines = list(DEFINES)
    if nvcc:
        (version, *_) = ask_nvcc(nvcc, r"release ([\d.]+)", "--version")
        defines.append(("ROIPOOL_CUDA_VERSION", f'"{version}"'))
        defines.append(("ROIPOOL_CUDA_ARCHITECTURES", f'"{" ".join(cuda_architectures(nvcc))}"'))
    extension = CppExtension(
        "roipool.libroipool",
        ["csrc/build_info.cpp", *sources("ops", ".cpp"), *sources("cpu", ".cpp")],
        include_dirs=[os.path.abspath("csrc")],
        define_macros=defines,
        extra_compile_args=compile_flags(),
        extra_link_args=["-Wl,-soname,libroipool.so", *sanitizer_flags()],
        depends=[*glob("csrc/*.h"), *sources("ops", ".h"), *sources("cpu", ".h")],
    )
    # Leaves out c10 and torch_python, which CppExtension links, and which a library on the stable ABI does not need.
    # The C++ library comes first, because torch happens to have some of its symbols.
    extension.libraries = ["stdc++", "torch_cpu"]
    return extension


def module_extension():
    """Describes roipool._C: the pybind11 module, which finds libroipool beside itself."""
    return setuptools.Extension(
        "roipool._C",
        ["csrc/python_module.cpp"],
        include_dirs=[os.path.abspath("csrc"), pybind11.get_include()],
        extra_compile_args=compile_flags(),
        libraries=["roipool"],
        runtime_library_dirs=["$ORIGIN"],
        extra_link_args=sanitizer_flags(),
        depends=["csrc/build_info.h"],
        language="c++",
    )


class BuildRoipool(BuildExtension):
    def get_ext_filename(self, name: str) -> str:
        """Names libraries as linkers look for them. Python modules have the ABI of Python in their names."""
        *folders, file = name.split(".")
        return os.path.join(*folders, f"{file}.so") if file.startswith("lib") else super().get_ext_filename(name)

    def build_extensions(self) -> None:
        compiler = cpp_extension.get_cxx_compiler()
        program = next(iter(shlex.split(compiler)), "")  # CXX may be "ccache c++"
        if shutil.which(program) is None:
            raise SystemExit(f"roipool needs a C++ compiler, and {compiler!r} is not there: install one, or set CXX")
        self.compiler.add_library_dir(os.path.dirname(self.get_ext_fullpath("roipool.libroipool")))
        super().build_extensions()


nvcc = find_nvcc()
with tempfile.TemporaryDirectory(prefix="roipool-") as scratch:
    # Builds a wheel outside the tree, which may be read-only, used by another build, or hold what an older one left.
    outside = {"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}}
    setuptools.setup(
        ext_modules=[operators_extension(nvcc), module_extension(), *([cuda_extension(nvcc)] if nvcc else [])],
        cmdclass={"build_ext": BuildRoipool},
        options=outside if {"bdist_wheel", "egg_info"} & set(sys.argv) else {},  # egg_info: what pip asks for first
    )
