"""Asserts that the loops compiled once for each instruction set share no function, optimised or not.

An inline function that several of them emit is a weak symbol: the linker keeps one of the copies for all, which may be
the one with instructions that the processor lacks.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from compilation import STABLE_ABI, TORCH_HEADERS, compile_objects

ROOT = Path(__file__).parents[1]
TARGETS = sorted((ROOT / "csrc" / "cpu").rglob("target_*.cpp"))
WEAK = r"^\S* +([WwVvu]) (.*)$"  # of nm: weak functions, weak data, unique data


def weak_symbols(library: Path) -> list[str]:
    said = subprocess.run(["nm", "-C", library], check=True, capture_output=True, text=True).stdout
    return [name for _, name in re.findall(WEAK, said, re.MULTILINE)]


def main() -> None:
    assert TARGETS, "there are no csrc/cpu/**/target_*.cpp"
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for level in ["-O0", "-O3"]:
            flags = ["-std=c++20", level, "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", STABLE_ABI]
            objects = compile_objects([*flags, "-Icsrc", *TORCH_HEADERS], TARGETS, Path(folder) / level, ROOT)
            for source, library in zip(TARGETS, objects, strict=True):
                found += [f"{source.relative_to(ROOT)} at {level}: {name}" for name in weak_symbols(library)]
    sys.exit("\n".join(["these symbols are weak:", *found]) if found else None)


if __name__ == "__main__":
    main()
