"""Copies and builds roipool, and plants one bug at a time in the copy."""

import re
import shutil
import subprocess
import sys
import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path

import pybind11
import pytest
from bugs.bug import Bug
from compilation import STABLE_ABI, TORCH_HEADERS, compile_objects, cpu_sources, link_library
from forks import run_in_fork

ROOT = Path(__file__).parents[3]
COPIED = ["csrc", "roipool", "tests", "pyproject.toml"]
NOT_COPIED = shutil.ignore_patterns("*.so", "__pycache__", "corpus.zip")
MODULE = f"roipool/_C{sysconfig.get_config_var('EXT_SUFFIX')}"
# -O1 is enough to find a bug, and takes a fraction of the time of -O3.
FLAGS = ["-std=c++20", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-w", STABLE_ABI, "-Icsrc"]
FLAGS += ["-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include"), *TORCH_HEADERS]
NOT_IMPORTED = 100  # the exit status of tests that could not begin


def run_tests(test: str) -> int:
    """Runs a file of tests or one of its tests, on the CPU alone, up to the first failure."""
    try:
        import roipool
        from roipool import _C
    except Exception:
        traceback.print_exc()
        return NOT_IMPORTED
    for module in [roipool, _C]:  # an editable install must not get in the way
        assert Path(module.__file__).is_relative_to(Path.cwd()), f"{module.__file__} is not in {Path.cwd()}"
    return pytest.main(["-x", "-v", "--tb=no", "-p", "no:cacheprovider", "-k", "not cuda", test])


def is_of_another_target(source: Path, capability: str) -> bool:
    """Returns whether a source holds loops for an instruction set that the tests do not run."""
    return source.stem.startswith("target_") and source.stem != f"target_{capability}"


class Checkout:
    """Holds roipool and its tests in a folder. Its objects are in another one, which checkouts share."""

    def __init__(self, folder: Path, objects: Path, jobs: int) -> None:
        self.folder, self.objects, self.jobs = folder, objects, jobs
        folder.mkdir(parents=True)
        for name in COPIED:
            copy = shutil.copy2 if (ROOT / name).is_file() else self.copy_tree
            copy(ROOT / name, folder / name)
        self.kept: dict[Path, Path] = {}  # the objects of sources that no bug changes
        self.build()
        self.pristine = folder / "pristine.so"
        shutil.copy2(folder / MODULE, self.pristine)
        status, capability = run_in_fork(self.print_capability, folder, timeout=600)
        assert status == 0, capability
        others = [path for path in cpu_sources(folder) if is_of_another_target(path, capability.strip())]
        self.kept = dict(zip(others, self.compile(others), strict=True))

    @staticmethod
    def copy_tree(source: Path, target: Path) -> None:
        shutil.copytree(source, target, ignore=NOT_COPIED)

    @staticmethod
    def print_capability() -> None:
        from roipool import _C

        print(_C.cpu_capability)

    def compile(self, sources: Sequence[Path]) -> list[Path]:
        return compile_objects(FLAGS, sources, self.objects, self.folder, jobs=self.jobs)

    def build(self) -> None:
        """Builds roipool._C where it is imported from."""
        objects = [*self.compile([path for path in cpu_sources(self.folder) if path not in self.kept])]
        link_library([*objects, *self.kept.values()], self.folder / MODULE)

    def plant(self, bug: Bug) -> None:
        """Raises ValueError where there is nothing to plant the bug in, or what comes of it cannot be built."""
        path = self.folder / bug.path
        source = path.read_text() if path.exists() else ""
        if source.count(bug.pattern) != 1:
            raise ValueError(f"found {source.count(bug.pattern)} times in {bug.path}: {bug.pattern!r}")
        path.write_text(source.replace(bug.pattern, bug.replacement))
        if bug.path.startswith("csrc/"):
            try:
                self.build()
            except subprocess.CalledProcessError as error:
                raise ValueError(f"it cannot be built: {error}") from None

    def undo(self, bug: Bug) -> None:
        if (ROOT / bug.path).exists():
            shutil.copy2(ROOT / bug.path, self.folder / bug.path)
        if bug.path.startswith("csrc/"):
            (self.folder / MODULE).unlink(missing_ok=True)  # a process may still use the old file
            shutil.copy2(self.pristine, self.folder / MODULE)

    def test(self, tests: Sequence[str], timeout: float) -> str:
        """Returns what failed first: a test, a crash or a hang; nothing where all pass."""
        for test in tests:  # pytest would run the tests of one file together
            status, output = run_in_fork(lambda test=test: run_tests(test), self.folder, timeout)
            failed = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE)
            begun = re.findall(r"^tests/[^\s\[]+", output, re.MULTILINE)
            if status == NOT_IMPORTED:
                raise ValueError(f"roipool cannot be imported:\n{output}")
            if status == 1 and failed:
                return failed[0]
            if status is None or status < 0 or status > 128:
                return f"{'a hang' if status is None else 'a crash'} in {begun[-1] if begun else test}"
            if status != 0:
                raise ValueError(f"pytest {test} did not run ({status}):\n{output[-2000:]}")
        return ""

    def cuda_host_fails(self, timeout: float) -> bool:
        """Returns whether the CUDA kernels, executed on the host, are found to be wrong."""
        command = [sys.executable, "tests/cuda_host/check.py", "csrc"]
        status, _ = run_in_fork(lambda: subprocess.run(command).returncode, self.folder, timeout)
        return status != 0
