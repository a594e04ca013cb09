"""Prints what is installed, for a bug report or a script, or tests it: `python -m roipool`, with `--selftest`."""

import argparse
import json
import platform
import re
import sys
from pathlib import Path

import torch

import roipool
from roipool import _C, _ops
from roipool._ops import bad_boxes
from roipool._ops.load import CUDA_LIBRARY, LIBRARY
from roipool._selftest import run_selftest

LABELS = {
    "built_with_torch": "built with torch",
    "library": "operators and CPU kernels",
    "cpu_capability": "CPU capability",
    "cpu_threads": "CPU threads",
    "cuda": "CUDA kernels",
    "cuda_library": "CUDA library",
    "cuda_architectures": "CUDA architectures",
    "cuda_loaded": "CUDA kernels loaded",
    "huge_pages": "huge pages asked for",
    "huge_pages_of_system": "huge pages of the system",
    "detect_bad_boxes": "bad boxes detected",
}


def read_huge_pages_of_system() -> str:
    """Returns when the system gives huge pages: "always", "madvise" (where asked for), "never", or "unknown"."""
    try:
        choices = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
    except OSError:
        return "unknown"
    chosen = re.search(r"\[(\w+)\]", choices)
    return chosen[1] if chosen else "unknown"


def collect_facts() -> dict[str, object]:
    return {
        "roipool": roipool.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "built_with_torch": _C.built_with_torch,
        "compiler": _C.compiler,
        "library": str(LIBRARY),
        "cpu_capability": _C.cpu_capability,
        "cpu_threads": torch.get_num_threads(),
        "cuda": _C.cuda_version,
        "cuda_library": str(CUDA_LIBRARY) if CUDA_LIBRARY.exists() else None,
        "cuda_architectures": _C.cuda_architectures,
        "cuda_loaded": _ops.cuda_is_loaded,
        "huge_pages": _C.asks_for_huge_pages,
        "huge_pages_of_system": read_huge_pages_of_system(),
        "detect_bad_boxes": bad_boxes.is_detecting,
    }


def show(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value) or "none"
    return "not built" if value is None else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roipool", description="Prints what is installed.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--json", action="store_true", help="as a JSON object")
    what.add_argument(
        "--selftest",
        action="store_true",
        help="instead, compare the kernels with the reference on each device; exit with 1 if they differ",
    )
    arguments = parser.parse_args()
    if arguments.selftest:
        sys.exit(not run_selftest())
    facts = collect_facts()
    if arguments.json:
        print(json.dumps(facts))
        return
    for key, value in facts.items():
        print(f"{LABELS.get(key, key):<26}{show(value)}")


if __name__ == "__main__":
    main()
