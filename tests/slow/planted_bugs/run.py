"""Plants bugs in copies of roipool, one at a time, and says which test finds each.

    python tests/slow/planted_bugs/run.py                       # all of them
    python tests/slow/planted_bugs/run.py --only reference      # those whose name or file matches
    python tests/slow/planted_bugs/run.py --check               # only whether there is something to plant each in

A bug that no test finds is a test to write, or no bug at all: then another takes its place. What was found is in
README.md. The CUDA kernels have bugs of their own: see test_cuda.py.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(1, str(Path(__file__).parents[2]))

from bugs import api, cpu_forward, cpu_ways, derivatives, geometry, ops, reference
from bugs.bug import Bug
from checkout import ROOT, Checkout

BUGS = [bug for room in [geometry, cpu_forward, cpu_ways, ops, derivatives, api, reference] for bug in room.BUGS]
TABLE = """# Planted bugs

Each of these bugs was planted in a copy of roipool, and the test that found it first is named. `run.py --table` wrote
this. Those in the CUDA kernels are not among them: `test_cuda.py` plants them.

| in | bug | found by |
| --- | --- | --- |
"""


class Result(NamedTuple):
    bug: str
    found_by: str = ""
    found_on_cuda_host: bool | None = None  # None where it was not tried
    problem: str = ""  # why it could not be planted


def table(results: dict[str, Result]) -> str:
    text = TABLE
    for bug in BUGS:
        if bug.name in results:
            result = results[bug.name]
            found = f"`{result.found_by}`" if result.found_by else "**nothing**"
            if bug.on_cuda_host:
                found += ", and on the CUDA host" if result.found_on_cuda_host else ", **not** on the CUDA host"
            text += f"| `{bug.path}` | {bug.name} | {found} |\n"
    return text


def missing_patterns(bugs: list[Bug]) -> list[str]:
    """Returns a sentence for each bug whose pattern is not found just once."""
    sentences = []
    for bug in bugs:
        source = (ROOT / bug.path).read_text() if (ROOT / bug.path).exists() else ""
        if source.count(bug.pattern) != 1:
            sentences.append(f"{bug.name}: found {source.count(bug.pattern)} times in {bug.path}: {bug.pattern!r}")
    return sentences


# ---- The processes that plant bugs, each in a checkout of its own.

_checkout: Checkout


def start_process(folder: Path, jobs: int) -> None:
    global _checkout
    _checkout = Checkout(folder / f"checkout-{os.getpid()}", folder / "objects", jobs)


def test_without_a_bug(test: str) -> str:
    return _checkout.test([test], timeout=3600)


def find(bug: Bug, timeout: float) -> Result:
    try:
        _checkout.plant(bug)
        found_by = _checkout.test(bug.tests, timeout)
        return Result(bug.name, found_by, _checkout.cuda_host_fails(timeout) if bug.on_cuda_host else None)
    except ValueError as error:
        return Result(bug.name, problem=str(error))
    finally:
        _checkout.undo(bug)


def find_and_time(job: tuple[Bug, float]) -> tuple[Result, float]:
    began = time.monotonic()
    return find(*job), time.monotonic() - began


# ---- The command.


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="print the bugs, and stop")
    parser.add_argument("--check", action="store_true", help="check that there is something to plant each in, and stop")
    parser.add_argument("--only", default="", metavar="REGEX", help="bugs whose name or file matches")
    parser.add_argument("--sample", type=int, metavar="N", help="so many of them, chosen by --seed")
    parser.add_argument("--seed", default="", help="any text, such as a commit")
    parser.add_argument("--json", type=Path, help="results; those of other bugs in this file are kept")
    parser.add_argument("--table", type=Path, help="all results as a table in Markdown")
    parser.add_argument("--missing", action="store_true", help="only bugs that the results so far lack")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds after which tests count as a hang")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="bugs at a time (default: %(default)s)")
    parser.add_argument("--trust", action="store_true", help="do not first run the tests without a bug")
    return parser.parse_args()


def load_results(path: Path | None) -> dict[str, Result]:
    if path is None or not path.exists():
        return {}
    return {name: Result(**result) for name, result in json.loads(path.read_text()).items()}


def plant_all(bugs: list[Bug], results: dict[str, Result], arguments: argparse.Namespace) -> None:
    """Plants each bug; adds its result, and writes it down at once."""
    paths = {bug.name: bug.path for bug in bugs}
    jobs = min(arguments.jobs, len(bugs))
    compilers = max(1, arguments.jobs // jobs)
    with tempfile.TemporaryDirectory() as folder:
        start = (start_process, (Path(folder), compilers))
        with multiprocessing.get_context("fork").Pool(jobs, *start) as pool:
            if not arguments.trust:
                tests = list(dict.fromkeys(test for bug in bugs for test in bug.tests))
                if failed := [test for test in pool.imap_unordered(test_without_a_bug, tests) if test]:
                    sys.exit(f"without a bug, there is already {failed}")
            work = [(bug, arguments.timeout) for bug in bugs]
            for result, seconds in pool.imap_unordered(find_and_time, work):
                results[result.bug] = result
                said = f"BROKEN: {result.problem}" if result.problem else f"{result.found_by or 'NOTHING'}"
                print(f"{paths[result.bug]}: {result.bug}: {said} ({seconds:.0f} s)", flush=True)
                if arguments.json:
                    kept = {name: result._asdict() for name, result in results.items() if not result.problem}
                    arguments.json.write_text(json.dumps(kept, indent=1) + "\n")


def main() -> None:
    arguments = parse_arguments()
    assert len({bug.name for bug in BUGS}) == len(BUGS)
    bugs = [bug for bug in BUGS if re.search(arguments.only, f"{bug.path}: {bug.name}")]
    results = load_results(arguments.json)
    if arguments.missing:
        bugs = [bug for bug in bugs if bug.name not in results]
    if arguments.sample is not None:
        bugs = random.Random(arguments.seed).sample(bugs, min(arguments.sample, len(bugs)))
    if arguments.list:
        print(*(f"{bug.path}: {bug.name}" for bug in bugs), sep="\n")
        return
    if arguments.check:
        sys.exit("\n".join(missing_patterns(bugs)) or None)

    plant_all(bugs, results, arguments)
    print(table(results))
    if arguments.table:
        arguments.table.write_text(table(results))
    broken = [bug.name for bug in bugs if results[bug.name].problem]
    not_found = [bug.name for bug in bugs if not results[bug.name].problem and not results[bug.name].found_by]
    not_found += [bug.name for bug in bugs if results[bug.name].found_on_cuda_host is False]
    if broken or not_found:
        sys.exit(f"in need of repair: {broken}; found by no test: {not_found}")


if __name__ == "__main__":
    main()
