"""Compiles C++ sources for tests, again only where a source or a header of its has changed."""

import hashlib
import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils import cpp_extension

TORCH_HEADERS = [flag for path in cpp_extension.include_paths() for flag in ["-isystem", path]]
TORCH_LIBRARIES = [f"-L{path}" for path in cpp_extension.library_paths()] + ["-ltorch", "-ltorch_cpu"]
# The oldest torch whose stable ABI the library needs, as in setup.py.
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"
COMPILER = shlex.split(os.environ.get("CXX", "c++"))


def digest_of(command: Sequence[str], files: Sequence[Path]) -> str:
    """Returns a digest of a command and of files, which may have been removed since the command read them."""
    digest = hashlib.sha256(repr(command).encode())
    for path in files:
        digest.update(path.read_bytes() if path.exists() else b"removed")
    return digest.hexdigest()[:16]


def compile_object(compiler: Sequence[str], flags: Sequence[str], source: Path, folder: Path, root: Path) -> Path:
    """Returns the object of one source, a path below `root`, where the compiler runs.

    Objects are kept in `folder` under a digest of all that they were made of: the command, the source and the headers
    that it includes. Processes may share the folder.
    """
    language = ["-x", "c++"] if source.suffix == ".cu" else []
    command = [*compiler, *flags, *language, "-c", str(source)]
    name = f"{source.stem}-{digest_of([*command, torch.__version__], [])}"
    dependencies = folder / f"{name}.d"

    def finished() -> Path:
        names = shlex.split(dependencies.read_text().replace("\\\n", " ").partition(": ")[2])
        return folder / f"{name}-{digest_of([], [root / path for path in names])}.o"

    if not dependencies.exists() or not finished().exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = folder / f"{name}.{os.getpid()}.o"
        subprocess.run([*command, "-MMD", "-MF", unfinished.with_suffix(".d"), "-o", unfinished], cwd=root, check=True)
        unfinished.with_suffix(".d").rename(dependencies)
        unfinished.rename(finished())
    return finished()


def compile_objects(
    flags: Sequence[str],
    sources: Sequence[Path],
    folder: Path,
    root: Path,
    compiler: Sequence[str] = COMPILER,
    jobs: int | None = None,
) -> list[Path]:
    """Returns the objects of all sources; as many compilers run at a time as `jobs` says, or as there are cores."""
    with ThreadPoolExecutor(jobs or os.cpu_count()) as pool:
        compilations = [pool.submit(compile_object, compiler, flags, source, folder, root) for source in sources]
        return [compilation.result() for compilation in compilations]


def link(command: Sequence[str | Path], target: Path) -> None:
    """Links a library or a program. Processes that use an older one of this name keep that."""
    unfinished = target.with_name(f"{target.name}.{os.getpid()}")
    subprocess.run([*command, "-o", unfinished], check=True)
    unfinished.replace(target)


def link_library(objects: Sequence[Path], library: Path, flags: Sequence[str] = ()) -> None:
    """Links a library that needs torch."""
    link([*COMPILER, "-shared", *flags, *objects, *TORCH_LIBRARIES], library)


def kernel_sources(csrc: Path, device: str) -> list[Path]:
    """Lists the kernels of a device, but not what registers them with torch, as paths below the parent of csrc/."""
    found = [*(csrc / device).rglob("*.cpp"), *(csrc / device).rglob("*.cu")]
    return sorted(path.relative_to(csrc.parent) for path in found if path.stem != "register")


def cpu_sources(root: Path) -> list[Path]:
    """Lists the sources of the CPU library and of the Python module, as paths below the root of a checkout."""
    found = [path.relative_to(root) for path in (root / "csrc").rglob("*.cpp")]
    return sorted(path for path in found if "cuda" not in path.parts)


def is_python_module(source: Path) -> bool:
    return source.stem.endswith("module")
