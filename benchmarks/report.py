"""Shows results as a table, as a plot, and as JSON with the environment that they were measured in."""

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from measure import Result
from rich.console import Console
from rich.table import Table
from settings import SETTINGS, VARIABLES

import roipool


def describe_commit() -> str:
    """Names the commit of the sources; ROIPOOL_COMMIT does where they have travelled without their history."""
    try:
        described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout
    except OSError:
        described = ""
    return described.strip() or os.environ.get("ROIPOOL_COMMIT", "unknown")


def describe_environment(device: str = "cpu") -> dict[str, object]:
    """Returns what figures depend on: versions, the processor, the allocator's variables, the GPU."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    facts = {
        "roipool": roipool.__version__,
        "commit": describe_commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": names[0] if names else platform.processor(),
        "cpu_capability": roipool._C.cpu_capability,
        "threads": torch.get_num_threads(),
        **{name: os.environ.get(name) for name in VARIABLES},
    }
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        facts |= {
            "device": torch.cuda.get_device_name(),
            "driver": subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0],
            "torch_cuda": torch.version.cuda,
            "roipool_cuda": roipool._C.cuda_version,
        }
    return facts


def make_console() -> Console:
    return Console() if Console().is_terminal else Console(width=160)


def print_results(results: list[Result], console: Console) -> None:
    """Prints a table for each setting of the allocator."""
    for setting in dict.fromkeys(result.setting for result in results):
        console.print(make_table(setting, [result for result in results if result.setting == setting]))


def make_table(setting: str, results: list[Result]) -> Table:
    titles = ["workload", "dtype", "layout", "mode", "peer", "equal", "ms", "spread", "x roipool", "x floor", "faults"]
    table = Table(*titles, title=f"allocator: {setting.replace('_', ' ')}")
    previous = None
    for result in results:
        if previous not in (None, result.problem):
            table.add_section()
        previous = result.problem
        table.add_row(
            *result.problem,
            result.peer,
            "" if result.equal is None else f"{result.equal:.2%}",
            f"{result.median_ms:.3f}",
            f"{result.spread_ms:.3f}",
            f"{result.over_roipool:.2f}",
            f"{result.over_floor:.2f}",
            "" if result.page_faults is None else str(result.page_faults),
        )
    return table


def plot_results(results: list[Result], path: Path) -> None:
    """Draws a group of bars for each problem and setting: how many times as long as roipool each peer takes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    groups = list(dict.fromkeys((*r.problem, r.setting) for r in results))
    peers = list(dict.fromkeys(r.peer for r in results))
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.16 * len(results)), layout="constrained")
    for peer_index, peer in enumerate(peers):
        bars = {(*r.problem, r.setting): r.over_roipool for r in results if r.peer == peer}
        rows = [groups.index(group) + 0.8 * (peer_index + 0.5) / len(peers) - 0.4 for group in bars]
        drawn = axes.barh(rows, list(bars.values()), height=0.8 / len(peers), label=peer)
        axes.bar_label(drawn, fmt="%.3g", fontsize=7, padding=2)
    axes.set_yticks(range(len(groups)), [" ".join(group).removesuffix(" default") for group in groups])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time over roipool's (median)")
    axes.margins(x=0.05, y=0.01)
    figure.legend(loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)


def write_json(
    results: Sequence[Any], path: Path, device: str = "cpu", settings: list[str] | None = None, **more: object
) -> None:
    """Writes the results, dataclasses of any kind, and more.

    If they were measured in settings of the allocator, says what its variables were in each of them.
    """
    environment = describe_environment(device)
    if settings is not None:
        environment |= {name: {setting: SETTINGS[setting].get(name) for setting in settings} for name in VARIABLES}
    report = {"environment": environment, "results": [asdict(result) for result in results], **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")
