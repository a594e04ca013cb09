"""Times roipool beside its peers: in one process, in alternation, on the same tensors, after checking equality.

    python benchmarks/run.py --workload fpn --workload vgg --json benchmarks/results/cpu.json

A figure is the median over the rounds; the spread is the distance between the quartiles. On a shared machine only the
ratios mean anything.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer
from workloads import WORKLOADS, Workload

import roipool

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in roipool._library.FEATURE_DTYPES}

Pool = Callable[[Tensor, Tensor, tuple[int, int], float], Tensor]


def peers(names: list[str] | None) -> dict[str, Pool]:
    """roipool, and what of the peers can be imported here."""
    found: dict[str, Pool] = {"roipool": roipool.roi_pool}
    try:
        from torchvision.ops import roi_pool

        # torchvision wants the boxes in the dtype of the features
        found["torchvision"] = lambda x, rois, *arguments: roi_pool(x, rois.to(x.dtype), *arguments)
    except ImportError:
        pass
    return {name: pool for name, pool in found.items() if names is None or name in names or name == "roipool"}


# ---- What is timed. Each mode takes a pool and a problem and returns the call.


def inference(pool: Pool, x: Tensor, rois: Tensor, workload: Workload) -> Callable[[], object]:
    def call() -> Tensor:
        with torch.no_grad():
            return pool(x, rois, workload.output_size, workload.spatial_scale)

    return call


def forward(pool: Pool, x: Tensor, rois: Tensor, workload: Workload) -> Callable[[], object]:
    x = x.detach().requires_grad_()
    return lambda: pool(x, rois, workload.output_size, workload.spatial_scale)


def backward(pool: Pool, x: Tensor, rois: Tensor, workload: Workload) -> Callable[[], object]:
    x = x.detach().requires_grad_()
    output = pool(x, rois, workload.output_size, workload.spatial_scale)
    grad = torch.ones_like(output)
    return lambda: torch.autograd.grad(output, x, grad, retain_graph=True)


def forward_backward(pool: Pool, x: Tensor, rois: Tensor, workload: Workload) -> Callable[[], object]:
    x = x.detach().requires_grad_()
    grad = torch.ones_like(pool(x, rois, workload.output_size, workload.spatial_scale))
    return lambda: torch.autograd.grad(pool(x, rois, workload.output_size, workload.spatial_scale), x, grad)


MODES = {mode.__name__: mode for mode in [inference, forward, backward, forward_backward]}


@dataclass
class Result:
    workload: str
    dtype: str
    layout: str
    mode: str
    peer: str
    equal: bool  # to roipool's output, bit for bit
    median_ms: float
    spread_ms: float
    ratio: float  # the peer's median over roipool's


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


def measure(
    workload: Workload, dtype: str, layout: str, mode: str, pools: dict[str, Pool], rounds: int
) -> list[Result]:
    x, rois = workload.make(DTYPES[dtype], LAYOUTS[layout])
    outputs = {name: inference(pool, x, rois, workload)() for name, pool in pools.items()}
    timers = {
        name: Timer(
            "call()", globals={"call": MODES[mode](pool, x, rois, workload)}, num_threads=torch.get_num_threads()
        )
        for name, pool in pools.items()
    }
    times: dict[str, list[float]] = {name: [] for name in pools}
    for timer in timers.values():
        timer.timeit(1)  # warm up
    for _ in range(rounds):
        for name, timer in timers.items():
            times[name].append(timer.timeit(1).mean * 1e3)
    results = []
    for name in pools:
        quartiles = statistics.quantiles(times[name], n=4)
        median = statistics.median(times[name])
        results.append(
            Result(
                workload.name,
                dtype,
                layout,
                mode,
                name,
                same_bits(outputs[name], outputs["roipool"]),
                median,
                quartiles[2] - quartiles[0],
                median / statistics.median(times["roipool"]),
            )
        )
    return results


def environment() -> dict[str, object]:
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "roipool": roipool.__version__,
        "commit": commit,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": cpu_name(),
        "simd": roipool._C.simd_level(),
        "threads": torch.get_num_threads(),
        "THP_MEM_ALLOC_ENABLE": os.environ.get("THP_MEM_ALLOC_ENABLE"),
    }


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor()


def show(results: list[Result], console: Console) -> None:
    table = Table(
        "workload", "dtype", "layout", "mode", "peer", "same bits", "median ms", "spread ms", "peer / roipool"
    )
    for result in results:
        table.add_row(
            result.workload,
            result.dtype,
            result.layout,
            result.mode,
            result.peer,
            "yes" if result.equal else "NO",
            f"{result.median_ms:.2f}",
            f"{result.spread_ms:.2f}",
            f"{result.ratio:.2f}",
            end_section=result.peer != "roipool",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def choice(flag: str, choices: dict[str, object], default: list[str], what: str) -> None:
        parser.add_argument(flag, action="append", choices=choices, help=f"{what}; may be repeated ({default})")

    choice("--workload", WORKLOADS, ["fpn"], "which problem")
    choice("--mode", MODES, list(MODES), "what to time")
    choice("--dtype", DTYPES, ["float32"], "of the features")
    choice("--layout", LAYOUTS, ["contiguous"], "of the features")
    parser.add_argument("--peers", nargs="*", help="of those installed, which (all)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender (all cores)")
    parser.add_argument("--rounds", type=int, default=15, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the results there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    pools = peers(arguments.peers)
    problems = [
        (workload, dtype, layout, mode)
        for workload in arguments.workload or ["fpn"]
        for dtype in arguments.dtype or ["float32"]
        for layout in arguments.layout or ["contiguous"]
        for mode in arguments.mode or list(MODES)
    ]
    console = Console()
    results: list[Result] = []
    with Progress(console=console, transient=True) as progress:
        for workload, *rest in progress.track(problems, description="timing"):
            results += measure(WORKLOADS[workload], *rest, pools=pools, rounds=arguments.rounds)
    show(results, console)
    if arguments.json:
        report = {"environment": environment(), "results": [vars(result) for result in results]}
        arguments.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
