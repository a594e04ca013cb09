"""Prints what is installed, for a bug report or a script: `python -m roipool`."""

import argparse
import json
import platform

import torch

import roipool
from roipool import _C, _ops


def collect_facts() -> dict[str, object]:
    return {
        "roipool": roipool.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "built_with_torch": _C.built_with_torch,
        "compiler": _C.compiler,
        "cpu_capability": _C.cpu_capability,
        "cpu_threads": torch.get_num_threads(),
        "cuda": _C.cuda_version,
        "cuda_architectures": _C.cuda_architectures,
        "cuda_loaded": _ops.cuda_is_loaded,
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roipool", description="Prints what is installed.")
    parser.add_argument("--json", action="store_true", help="as a JSON object")
    arguments = parser.parse_args()
    facts = collect_facts()
    if arguments.json:
        print(json.dumps(facts))
        return
    labels = {
        "built_with_torch": "built with torch",
        "cpu_capability": "CPU capability",
        "cpu_threads": "CPU threads",
        "cuda": "CUDA kernels",
        "cuda_architectures": "CUDA architectures",
        "cuda_loaded": "CUDA kernels loaded",
    }
    for key, value in facts.items():
        if isinstance(value, list):
            shown = " ".join(value) or "none"
        else:
            shown = "not built" if value is None else {"True": "yes", "False": "no"}.get(str(value), str(value))
        print(f"{labels.get(key, key.replace('_', ' ')):<20}{shown}")


if __name__ == "__main__":
    main()
