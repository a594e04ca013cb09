"""Prints results of run.py as the Markdown table of the README.

python benchmarks/summary.py benchmarks/results/cpu_float32.json

The table has roipool's times, and how many times as long the others take.
"""

import argparse
import json
from pathlib import Path

PROBLEM = ["workload", "mode", "dtype", "layout", "threads"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="+")
    results = [r for path in parser.parse_args().json for r in json.loads(path.read_text())["results"]]

    def problem_of(result: dict) -> tuple[str, ...]:
        return tuple(result[key] for key in PROBLEM)

    varied = [i for i in range(len(PROBLEM)) if len({problem_of(r)[i] for r in results}) > 1]
    peers = [peer for peer in dict.fromkeys(r["peer"] for r in results) if peer not in ("roipool", "floor")]
    titles = [*(PROBLEM[i] for i in varied), "roipool", *peers, "of the memory floor"]
    print("| " + " | ".join(titles) + " |")
    print("| " + " | ".join(["---"] * len(titles)) + " |")
    for problem in dict.fromkeys(problem_of(r) for r in results):
        by_peer = {r["peer"]: r for r in results if problem_of(r) == problem}
        columns = [str(problem[i]).replace("_", " ") for i in varied]
        columns.append(f"{by_peer['roipool']['median_ms']:.2f} ms")
        columns += [f"{by_peer[peer]['over_roipool']:.1f}x" if peer in by_peer else "" for peer in peers]
        columns.append(f"{by_peer['roipool']['over_floor']:.1f}x")
        print("| " + " | ".join(columns) + " |")


if __name__ == "__main__":
    main()
