"""Fuzzes the CPU operators under AddressSanitizer and UndefinedBehaviorSanitizer: see fuzz_operators.cpp.

    python tests/slow/fuzz/run.py --seconds 60
    python tests/slow/fuzz/run.py --runs 10000000 --save     # keeps what it learned in corpus.zip
    python tests/slow/fuzz/run.py --coverage                 # the lines of csrc/ that the corpus reaches

It needs Clang with its runtime libraries (Debian: clang, libclang-rt-14-dev; llvm for --coverage). What fails is left
in the working directory as crash-*, and is run again by `python tests/slow/fuzz/run.py --replay crash-*`.
ROIPOOL_CPU_CAPABILITY chooses the instruction set, as ever.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from torch.utils import cpp_extension

sys.path.insert(0, str(Path(__file__).parents[2]))

from compilation import STABLE_ABI, TORCH_HEADERS, TORCH_LIBRARIES, compile_objects, cpu_sources, is_python_module

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CORPUS = HERE / "corpus.zip"
COVERED = "-fsanitize-coverage=inline-8bit-counters,pc-table"
SANITIZED = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", COVERED]
ENVIRONMENT = {
    # An allocation that is too large is refused, as where memory is scarce.
    "ASAN_OPTIONS": "allocator_may_return_null=1:max_allocation_size_mb=2048",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "OMP_WAIT_POLICY": "passive",
}
MOST_BYTES = 512  # the limit of an input


def clang() -> str:
    names = [os.environ.get("CLANG", "clang++"), *[f"clang++-{version}" for version in range(22, 13, -1)]]
    found = next((name for name in names if shutil.which(name)), None)
    return found or sys.exit("libFuzzer comes with Clang, which is not on PATH: CLANG=/path/to/clang++")


def build(folder: Path, flags: list[str]) -> Path:
    """Builds the fuzzer, and csrc/ with these flags, which the fuzzer itself does not need."""
    compiler = [clang()]
    common = ["-std=c++20", "-O2", "-g", "-ffp-contract=off", f"-I{ROOT / 'csrc'}", *TORCH_HEADERS]
    sources = [source for source in cpu_sources(ROOT) if not is_python_module(source)]
    objects = compile_objects([*common, STABLE_ABI, *flags], sources, folder, ROOT, compiler)
    objects += compile_objects(common, [HERE / "fuzz_operators.cpp"], folder, ROOT, compiler)
    program = folder / "fuzz_operators"
    paths = [f"-Wl,-rpath,{path}" for path in cpp_extension.library_paths()]
    link = ["-Wl,--no-as-needed", *TORCH_LIBRARIES, "-lc10", *paths]
    subprocess.run([*compiler, "-fsanitize=fuzzer", *flags, *objects, "-o", program, *link], check=True)
    return program


def report_coverage(folder: Path, corpus: Path) -> int:
    program = build(folder, ["-fprofile-instr-generate", "-fcoverage-mapping"])
    environment = os.environ | {"LLVM_PROFILE_FILE": str(folder / "profile")}
    subprocess.run([program, "-runs=0", corpus], env=environment, check=True, capture_output=True)
    tools = Path(subprocess.check_output([clang(), "-print-prog-name=llvm-cov"], text=True).strip()).parent
    subprocess.run([tools / "llvm-profdata", "merge", folder / "profile", "-o", folder / "merged"], check=True)
    command = [tools / "llvm-cov", "report", program, f"-instr-profile={folder / 'merged'}", ROOT / "csrc"]
    return subprocess.run(command).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=0, help="how long (default: until stopped)")
    parser.add_argument("--runs", type=int, default=-1, help="how many executions (default: any number)")
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer (default: another one each time)")
    parser.add_argument("--save", action="store_true", help="add what was found to corpus.zip, minimised")
    parser.add_argument("--replay", type=Path, nargs="+", metavar="INPUT", help="run these inputs only")
    parser.add_argument("--coverage", action="store_true", help="print the lines of csrc/ that the corpus reaches")
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus = folder / "corpus"
        corpus.mkdir()
        if CORPUS.exists():
            with zipfile.ZipFile(CORPUS) as archive:
                archive.extractall(corpus)
        if arguments.coverage:
            return report_coverage(folder, corpus)

        program = build(folder, SANITIZED)
        environment = ENVIRONMENT | dict(os.environ)
        if arguments.replay:
            return subprocess.run([program, *arguments.replay], env=environment).returncode
        limits = [f"-max_total_time={arguments.seconds}", f"-runs={arguments.runs}", f"-seed={arguments.seed}"]
        lengths = [f"-max_len={MOST_BYTES}", "-len_control=0"]  # bytes beyond the end of an input count as 0
        fuzz = [program, *lengths, "-rss_limit_mb=6000", "-print_final_stats=1", *limits, corpus]
        status = subprocess.run(fuzz, env=environment).returncode
        if status == 0 and arguments.save:
            merged = folder / "merged"
            merged.mkdir()
            subprocess.run([program, "-set_cover_merge=1", merged, corpus], env=environment, check=True)
            shutil.make_archive(str(CORPUS.with_suffix("")), "zip", merged)
        return status


if __name__ == "__main__":
    sys.exit(main())
