"""Plants bugs in a copy of roipool, one at a time, and says which test finds each.

    python tests/slow/planted_bugs/run.py

A bug that no test finds is a test to write, or no bug at all: then another takes its place. The library is built anew
for each bug in csrc/, so all of it takes hours, and CI leaves it out: what was found is in README.md. The CUDA
kernels have bugs of their own, in test_cuda.py, which CI does run.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

# Builds and tests run in forks of this process, which need not import again what takes long.
import numpy  # noqa: F401
import onnxruntime  # noqa: F401
import pytest
import torch._dynamo
import torch.export
import torch.fx.experimental.symbolic_shapes
import torch.utils.cpp_extension  # noqa: F401
from bugs import api, cpu_forward, cpu_ways, derivatives, geometry, ops, reference
from bugs.bug import Bug

ROOT = Path(__file__).parents[3]
NOT_COPIED = shutil.ignore_patterns(
    ".git", ".venv", "build", "dist", "*.egg-info", "*.so", "__pycache__", ".*_cache", ".hypothesis"
)

BUGS = [bug for room in [geometry, cpu_forward, cpu_ways, ops, derivatives, api, reference] for bug in room.BUGS]


def run(work: Callable[[], int | None], folder: Path, timeout: float) -> tuple[int | None, str]:
    """What work() returns in a fork of this process, whose imports it need not repeat, and all that it printed.

    In place of the former, None where it took too long, and a negative number where a signal ended it.
    """
    with tempfile.TemporaryFile("w+") as output:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setsid()
                os.chdir(folder)
                for stream in [1, 2]:
                    os.dup2(output.fileno(), stream)
                os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", "ROIPOOL_CUDA": "0"}
                sys.dont_write_bytecode = True
                sys.path[0] = str(folder)  # before the finders of an editable install
                status = work() or 0
            except SystemExit as exit:
                status = exit.code if isinstance(exit.code, int) else exit.code is not None
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        deadline = time.monotonic() + timeout
        ended, wait_status = 0, 0
        while ended == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
            ended, wait_status = os.waitpid(child, os.WNOHANG)
        if ended == 0:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        output.seek(0)
        return os.waitstatus_to_exitcode(wait_status) if ended else None, output.read()


def build() -> None:
    sys.argv = ["setup.py", "-q", "build_ext", "--inplace"]
    runpy.run_path("setup.py", run_name="__main__")


NOT_IMPORTED = 100


def run_tests(test: str) -> int:
    try:
        import roipool
        from roipool import _C
    except Exception:
        traceback.print_exc()
        return NOT_IMPORTED
    for module in [roipool, _C]:  # and not those of an editable install
        assert Path(module.__file__).is_relative_to(Path.cwd()), f"{module.__file__} is not in {Path.cwd()}"
    return pytest.main(["-x", "-v", "--tb=no", "-p", "no:cacheprovider", "-k", "not cuda", test])


class Checkout:
    """A copy of this one, built, in which one bug at a time is planted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "roipool"
        self.pristine = folder / "pristine"  # what was built of it
        if self.pristine.exists():
            self.restore()
        shutil.copytree(ROOT, self.folder, ignore=NOT_COPIED, dirs_exist_ok=True)
        self.build()
        for path in self.built():
            self.copy(path, self.pristine / path.relative_to(self.folder))

    def build(self) -> None:
        status, output = run(build, self.folder, timeout=3600)
        if status != 0:
            raise ValueError(f"it cannot be built:\n{output}")

    def built(self) -> list[Path]:
        return [self.folder / "build", *(self.folder / "roipool").glob("_C.*.so")]

    def copy(self, source: Path, target: Path) -> None:
        """With the times that ninja goes by."""
        if source.is_dir():
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)  # not overwritten: it may be in use
            shutil.copy2(source, target)

    def restore(self) -> None:
        for path in self.built():
            self.copy(self.pristine / path.relative_to(self.folder), path)

    def plant(self, bug: Bug) -> None:
        path = self.folder / bug.path
        source = path.read_text()
        if source.count(bug.pattern) != 1:
            raise ValueError(f"found {source.count(bug.pattern)} times in {bug.path}: {bug.pattern!r}")
        path.write_text(source.replace(bug.pattern, bug.replacement))
        if bug.path.startswith("csrc/"):
            self.build()

    def undo(self, bug: Bug) -> None:
        self.copy(ROOT / bug.path, self.folder / bug.path)
        if bug.path.startswith("csrc/"):
            self.restore()

    def test(self, tests: Sequence[str], timeout: float) -> str:
        """What failed first: a test, a crash or a hang; nothing where all pass."""
        for test in tests:  # one by one, as pytest would run those of one file together
            status, output = run(lambda test=test: run_tests(test), self.folder, timeout)
            failed = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+)", output, re.MULTILINE)
            begun = re.findall(r"^tests/[^\s\[]+", output, re.MULTILINE)
            if status == NOT_IMPORTED:
                raise ValueError(f"roipool cannot be imported:\n{output}")
            if status == 1 and failed:
                return failed[0]
            if status is None or status < 0 or status > 128:
                return f"{'a hang' if status is None else 'a crash'} in {begun[-1] if begun else test}"
            if status != 0:
                sys.exit(f"{output}\npytest did not run: {status}")
        return ""

    def cuda_host_fails(self, timeout: float) -> bool:
        command = [sys.executable, "tests/cuda_host/check.py", "csrc"]
        status, _ = run(lambda: subprocess.run(command).returncode, self.folder, timeout)
        return status != 0


TABLE = """# Planted bugs

Each of these bugs was planted in a copy of roipool, and the test that found it first is named. `run.py
--table` wrote this. Those in the CUDA kernels are not among them: `test_cuda.py` plants them in CI.

| in | bug | found by |
| --- | --- | --- |
"""


def table(results: dict[str, dict[str, object]]) -> str:
    text = TABLE
    for bug in BUGS:
        if bug.name in results:
            result = results[bug.name]
            found = f"`{result['found_by']}`" if result["found_by"] else "**nothing**"
            if bug.on_cuda_host:
                found += ", and on the CUDA host" if result["found_on_cuda_host"] else ", **not** on the CUDA host"
            text += f"| `{bug.path}` | {bug.name} | {found} |\n"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the bugs, and stop")
    parser.add_argument("--only", default="", metavar="REGEX", help="bugs whose name or file matches")
    parser.add_argument("--json", type=Path, help="results; those of other bugs in this file are kept")
    parser.add_argument("--table", type=Path, help="all results as a table in Markdown")
    parser.add_argument("--missing", action="store_true", help="only bugs that the results so far lack")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which tests count as a hang")
    parser.add_argument("--copy", type=Path, help="where to keep the copy that is built; else it is a temporary one")
    parser.add_argument("--trust", action="store_true", help="do not first run the tests without a bug")
    arguments = parser.parse_args()

    bugs = [bug for bug in BUGS if re.search(arguments.only, f"{bug.path}: {bug.name}")]
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    if arguments.list:
        print(*(f"{bug.path}: {bug.name}" for bug in bugs), sep="\n")
        return

    results: dict[str, dict[str, object]] = {}
    if arguments.json and arguments.json.exists():
        results = json.loads(arguments.json.read_text())
    if arguments.missing:
        bugs = [bug for bug in bugs if bug.name not in results]
    broken = []
    with tempfile.TemporaryDirectory() as folder:
        checkout = Checkout(arguments.copy or Path(folder))
        if not arguments.trust:
            failed = checkout.test(list(dict.fromkeys(test for bug in bugs for test in bug.tests)), timeout=3600)
            if failed:
                sys.exit(f"without a bug, there is already {failed}")
        for bug in bugs:
            began = time.monotonic()
            try:
                checkout.plant(bug)
                result: dict[str, object] = {"found_by": checkout.test(bug.tests, arguments.timeout)}
                if bug.on_cuda_host:
                    result["found_on_cuda_host"] = checkout.cuda_host_fails(arguments.timeout)
                results[bug.name] = result
                print(f"{bug.path}: {bug.name}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
            except ValueError as error:
                broken.append(bug.name)
                print(f"{bug.path}: {bug.name}: BROKEN: {error}", flush=True)
            checkout.undo(bug)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")

    print(table(results))
    if arguments.table:
        arguments.table.write_text(table(results))
    survivors = [bug.name for bug in bugs if bug.name not in broken and not results[bug.name]["found_by"]]
    if broken or survivors:
        sys.exit(f"in need of repair: {broken}; found by no test: {survivors}")


if __name__ == "__main__":
    main()
