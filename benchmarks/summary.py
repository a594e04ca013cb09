"""Prints results of run.py as the Markdown table of the README.

python benchmarks/summary.py benchmarks/results/cpu_float32.json

The table has roipool's times, and how many times as long the others take. Columns of the default settings of the
allocator come first; a column of another setting says so. Results without a setting count as default.
"""

import argparse
import json
from pathlib import Path

PROBLEM = ["workload", "mode", "dtype", "layout", "threads"]
SUFFIXES = {"default": "", "huge_pages": ", huge pages", "kept": ", kept memory"}  # of the titles, by setting
PEERS_IN_ALL_SETTINGS = ["torchvision", "loop of torchvision", "openvino"]  # others are shown in the first only

Result = dict[str, object]
Key = tuple[object, ...]


def problem_of(result: Result) -> Key:
    return tuple(result[key] for key in PROBLEM)


def make_columns(results: list[Result], problems: list[Key], setting: str, is_first: bool) -> list[list[str]]:
    """Returns the columns of a setting: a title, then a cell for each problem, which is empty if there is no result."""
    by_key = {(r["peer"], problem_of(r)): r for r in results if r.get("setting", "default") == setting}

    def make_column(title: str, peer: str, field: str, form: str) -> list[str]:
        found = [by_key.get((peer, problem)) for problem in problems]
        return [
            title + SUFFIXES.get(setting, f", {setting}"),
            *("" if result is None else form.format(result[field]) for result in found),
        ]

    peers = [peer for peer in dict.fromkeys(peer for peer, _ in by_key) if peer not in ("roipool", "floor")]
    shown = [peer for peer in peers if is_first or peer in PEERS_IN_ALL_SETTINGS]
    columns = [make_column("roipool", "roipool", "median_ms", "{:.2f} ms")]
    columns += [make_column(peer, peer, "over_roipool", "{:.1f}x") for peer in shown]
    if is_first:
        columns.append(make_column("of the memory floor", "roipool", "over_floor", "{:.1f}x"))
    return columns


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("json", type=Path, nargs="+")
    results = [r for path in parser.parse_args().json for r in json.loads(path.read_text())["results"]]

    problems = list(dict.fromkeys(problem_of(r) for r in results))
    varied = [i for i in range(len(PROBLEM)) if len({problem[i] for problem in problems}) > 1]
    columns = [[PROBLEM[i], *(str(problem[i]).replace("_", " ") for problem in problems)] for i in varied]
    settings = sorted(dict.fromkeys(r.get("setting", "default") for r in results), key=lambda name: name != "default")
    for setting in settings:
        columns += make_columns(results, problems, setting, is_first=setting == settings[0])
    columns = [[column[0], "---", *column[1:]] for column in columns]
    for row in zip(*columns, strict=True):
        print("| " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
