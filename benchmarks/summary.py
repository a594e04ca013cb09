"""Prints results of run.py as the Markdown table of the README: roipool's time, and how many times as long others take.

python benchmarks/summary.py benchmarks/results/cpu_float32.json
"""

import argparse
import json
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="+")
    results = [r for path in parser.parse_args().json for r in json.loads(path.read_text())["results"]]

    def problem(result: dict) -> tuple[str, ...]:
        return tuple(result[key] for key in ["workload", "mode", "dtype", "layout", "threads"])

    varied = [i for i in range(5) if len({problem(r)[i] for r in results}) > 1]
    peers = [peer for peer in dict.fromkeys(r["peer"] for r in results) if peer not in ("roipool", "floor")]
    titles = [["workload", "mode", "dtype", "layout", "threads"][i] for i in varied]
    titles += ["roipool", *peers, "of the memory floor"]
    print("| " + " | ".join(titles) + " |")
    print("| " + " | ".join(["---"] * len(titles)) + " |")
    for key in dict.fromkeys(problem(r) for r in results):
        by_peer = {r["peer"]: r for r in results if problem(r) == key}
        cells = [str(key[i]).replace("_", " ") for i in varied]
        cells.append(f"{by_peer['roipool']['median_ms']:.2f} ms")
        cells += [f"{by_peer[peer]['over_roipool']:.1f}x" if peer in by_peer else "" for peer in peers]
        cells.append(f"{by_peer['roipool']['over_floor']:.1f}x")
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
