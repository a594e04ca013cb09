"""Prints results as Markdown tables, and keeps the tables of README.md and docs/ as the results are.

    python benchmarks/summary.py cpu_float32.json --workload fpn --peer torchvision
    python benchmarks/summary.py --update README.md docs/benchmarks.md

Files are those of benchmarks/results/, or paths. A table in a document stands below a comment which holds the arguments
that make it, as in `<!-- summary: cpu_float32.json --workload fpn -->`. --update writes all tables of documents anew;
--check fails where one is not as the results are.

Times are roipool's, the factors say how many times as long another takes. "of the memory floor" says how many times as
long roipool takes as copying as many bytes as it must read and write.
"""

import argparse
import json
import re
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PROBLEM = ["workload", "mode", "dtype", "layout", "threads"]
NO_BREAK_SPACE = "\u00a0"  # between a number and its unit
COMMENT = re.compile(r"<!--\s*summary\b")
TABLE = re.compile(r"(?<=<!-- summary: )(.+?)( -->\n)\n*(?:\|.*\n)*\n*")  # with the empty lines around it

Result = dict[str, Any]
Columns = dict[str, list[str]]


# ---- Results of run.py, bench_pyramid.py and scaling.py.


def problem_of(result: Result) -> tuple[object, ...]:
    return tuple(result[key] for key in PROBLEM)


def compare_peers(results: list[Result], arguments: argparse.Namespace) -> Columns:
    """Makes a column of each property in which problems differ, one of roipool's time, and one of each peer."""
    results = [
        result
        for result in results
        if result.get("setting", "default") == arguments.setting
        and (arguments.workload is None or result["workload"] in arguments.workload)
        and (arguments.mode is None or result["mode"] in arguments.mode)
    ]
    if not results:
        raise ValueError("no result is left")
    by_key = {(result["peer"], problem_of(result)): result for result in results}
    problems = list(dict.fromkeys(map(problem_of, results)))

    def make_column(peer: str, field: str, form: str) -> list[str]:
        """Fills a column. A loop of a peer over the levels of a pyramid stands for it where it pools no pyramids."""
        found = [by_key.get((peer, problem)) or by_key.get((f"loop of {peer}", problem)) for problem in problems]
        return ["" if result is None else form.format(result[field]) for result in found]

    columns = {}
    for index, key in enumerate(PROBLEM):
        if len({problem[index] for problem in problems}) > 1:
            columns[key] = [str(problem[index]).replace("_", " ") for problem in problems]
    columns["roipool"] = make_column("roipool", "median_ms", f"{{:.2f}}{NO_BREAK_SPACE}ms")
    measured = dict.fromkeys(peer for peer, _ in by_key if peer not in ("roipool", "floor"))
    for peer in arguments.peer or measured:
        if not {peer, f"loop of {peer}"} & set(measured):
            raise ValueError(f"there is no result of {peer}, but of {', '.join(measured)}")
        columns[peer] = make_column(peer, "over_roipool", "{:.1f}x")
    if not arguments.peer:
        columns["of the memory floor"] = make_column("roipool", "over_floor", "{:.1f}x")
    return columns


# ---- Results of the other programs.


def ratio_of(result: Result) -> float:
    return result["torchvision_ms"] / result["roipool_ms"]


def summarize_sweep(results: list[Result]) -> Columns:
    ratios = sorted(map(ratio_of, results))
    return {
        "problems": [str(len(ratios))],
        "roipool at least as fast": [str(sum(ratio >= 1 for ratio in ratios))],
        "median": [f"{statistics.median(ratios):.1f}x"],
        "5th percentile": [f"{ratios[len(ratios) // 20]:.2f}x"],
        "least": [f"{ratios[0]:.2f}x"],
    }


def list_worst(results: list[Result], number: int) -> Columns:
    """Lists the problems of a sweep in which roipool gains least."""
    by_ratio = sorted(results, key=ratio_of)[:number]
    return {
        "torchvision": [f"{ratio_of(result):.2f}x" for result in by_ratio],
        "roipool": [f"{result['roipool_ms']:.3f}{NO_BREAK_SPACE}ms" for result in by_ratio],
        "problem": [
            f"({result['batch_size']}, {result['channels']}, {result['height']}, {result['width']}), "
            f"{result['num_regions']} regions, {result['output_size'][0]}x{result['output_size'][1]} bins, "
            f"{result['dtype']}, {result['layout']}, {result['mode'].replace('_', ' ')}, "
            f"{result['threads']} thread{'s' * (result['threads'] > 1)}"
            for result in by_ratio
        ],
    }


def summarize_overhead(results: list[Result]) -> Columns:
    peers = list(results[0]["us"])
    return {
        "mode": [result["mode"].replace("_", " ") for result in results],
        **{peer: [f"{result['us'][peer]:.1f}{NO_BREAK_SPACE}us" for result in results] for peer in peers},
    }


def summarize_acceleration(results: list[Result]) -> Columns:
    keys = ["workload", "model", "execution", "mode"]
    return {
        **{key: [str(result[key]) for result in results] for key in keys},
        "torchvision": [f"{result['torchvision_over_accelerated']:.1f}x" for result in results],
    }


def summarize_deployment(results: dict[str, Result]) -> Columns:
    eager = next(iter(results.values()))
    return {
        "runtime": list(results),
        "ms per image": [f"{result['milliseconds_per_image']:.1f}" for result in results.values()],
        "images as eager": [
            f"{result['num_images_alike']} of {eager['num_images_alike']}" for result in results.values()
        ],
        "box difference (px)": [f"{result['box_difference_pixels']:.1e}" for result in results.values()],
        "score difference": [f"{result['score_difference']:.1e}" for result in results.values()],
    }


def summarize(results: Any, arguments: argparse.Namespace) -> Columns:
    """Makes the columns of a table of results. Their fields tell which program wrote them."""
    if isinstance(results, dict):
        return summarize_deployment(results)
    fields = results[0].keys()
    if "roipool_ms" in fields:
        return list_worst(results, arguments.worst) if arguments.worst > 0 else summarize_sweep(results)
    if "us" in fields:
        return summarize_overhead(results)
    return summarize_acceleration(results) if "accelerated_ms" in fields else compare_peers(results, arguments)


# ---- Tables.


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="JSON", help="results, all of one kind")
    parser.add_argument("--workload", nargs="+", help="only these workloads")
    parser.add_argument("--mode", nargs="+", help="only these modes")
    parser.add_argument("--peer", nargs="+", help="only these peers; a loop over levels counts as the peer itself")
    parser.add_argument("--setting", default="default", help="of the allocator (default: %(default)s)")
    parser.add_argument(
        "--worst", type=int, default=0, metavar="N", help="of a sweep, the problems with the least gain"
    )
    parser.add_argument("--update", nargs="+", type=Path, metavar="MD", help="write the tables of documents anew")
    parser.add_argument(
        "--check", nargs="+", type=Path, metavar="MD", help="fail where their tables are not as results"
    )
    return parser.parse_args(words)


def load_results(files: list[str]) -> Any:
    """Returns the results of all files: lists as one list."""
    folders = [RESULTS, RESULTS.parents[1]]
    paths = [next((folder / file for folder in folders if (folder / file).exists()), Path(file)) for file in files]
    loaded = [json.loads(path.read_text())["results"] for path in paths]
    return loaded[0] if isinstance(loaded[0], dict) else [result for results in loaded for result in results]


def make_table(arguments: argparse.Namespace) -> str:
    columns = summarize(load_results(arguments.files), arguments)
    rows = [columns.keys(), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def update_tables(document: str) -> str:
    """Returns the text of a document with its tables made anew."""

    def make(match: re.Match[str]) -> str:
        try:
            table = make_table(parse_arguments(shlex.split(match[1])))
        except (OSError, ValueError) as error:
            raise ValueError(f"<!-- summary: {match[1]} -->: {error}") from error
        return f"{match[1]}{match[2]}\n{table}\n"

    text, num_tables = TABLE.subn(make, document)
    if num_tables != len(COMMENT.findall(document)):
        raise ValueError("a comment of a table must be a line of its own, as in `<!-- summary: cpu_float32.json -->`")
    return text.rstrip("\n") + "\n" if num_tables else document


def main() -> None:
    arguments = parse_arguments()
    if arguments.files:
        print(make_table(arguments), end="")
    for path in arguments.update or []:
        path.write_text(update_tables(path.read_text()))
    old = [str(path) for path in arguments.check or [] if path.read_text() != update_tables(path.read_text())]
    if old:
        sys.exit(f"tables are not as the results: python benchmarks/summary.py --update {' '.join(old)}")


if __name__ == "__main__":
    main()
