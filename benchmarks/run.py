"""Times roipool beside its peers: in one process, in alternation, on the same tensors, equality checked first.

    python benchmarks/run.py --workload fpn --workload vgg --mode inference --json result.json --plot result.png

A figure is the median over the rounds; the spread is the distance between its quartiles. On a shared machine only the
ratios mean anything: "x roipool" is a peer's median over roipool's, "x floor" is a median over the time that it takes
to copy as many bytes as the call must read and write once, between buffers that are mapped already.

On CUDA a figure is the mean of some calls in a row, between CUDA events, in eager mode, so that launches overlap with
the work before them. Calls take turns with copies of the inputs that together exceed the second-level cache. Before
results are checked, what memory they will get is filled with NaN.

Results and gradients live in fresh memory, as they do for users; how much of the time that is depends on the allocator:
run under THP_MEM_ALLOC_ENABLE=1 (huge pages) and without, and with MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592
added, whereby glibc hands out again what was freed, as jemalloc and tcmalloc do. MXNet is timed right after the others,
in a process of its own (--mxnet-python). The mode inference_out is inference into memory that is kept (out=), for those
that can.
"""

import argparse
import itertools
import json
import math
import os
import platform
import random
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from peers import KEEP_OUTPUTS, PEERS, Pool, Unable, available
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor
from torch.utils.benchmark import Timer
from workloads import WORKLOADS, Part, Workload

import roipool

ALLOCATOR_SETTINGS = ["THP_MEM_ALLOC_ENABLE", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_"]
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
MODES = ["inference", "inference_out", "forward", "backward", "forward_backward"]

Call = Callable[[], list[Tensor]]


def make_call(mode: str, pool: Pool, parts: list[Part], output_size: tuple[int, int]) -> Call:
    """What is timed: the workload in one of the modes. Returns outputs, or gradients where the mode ends in them."""
    if mode == "inference":

        def inference() -> list[Tensor]:
            with torch.no_grad():
                return [pool(part, output_size) for part in parts]

        return inference
    if mode == "inference_out":
        if pool.__name__ not in KEEP_OUTPUTS:
            raise Unable
        with torch.no_grad():
            outs = [pool(part, output_size).clone() for part in parts]

        def inference_out() -> list[Tensor]:
            with torch.no_grad():
                return [pool(part, output_size, out=out) for part, out in zip(parts, outs, strict=True)]

        return inference_out

    parts = [Part(part.input.detach().requires_grad_(), part.rois, part.spatial_scale) for part in parts]
    inputs = [part.input for part in parts]

    def forward() -> list[Tensor]:
        return [pool(part, output_size) for part in parts]

    if mode == "forward":
        return forward
    grads = [torch.ones_like(output) for output in forward()]
    if mode == "backward":
        outputs = forward()
        return lambda: list(torch.autograd.grad(outputs, inputs, grads, retain_graph=True))
    return lambda: list(torch.autograd.grad(forward(), inputs, grads))


def bytes_moved(mode: str, parts: list[Part], output_size: tuple[int, int]) -> int:
    """What the call must read and write once: the input, the regions, the results."""
    total = 0
    for part in parts:
        outputs = len(part.rois) * part.input.shape[1] * output_size[0] * output_size[1]
        output, argmax = outputs * part.input.element_size(), outputs * 4
        inference = part.input.nbytes + part.rois.nbytes + output
        forward = inference + argmax
        backward = output + argmax + part.input.nbytes
        total += {
            "inference": inference,
            "inference_out": inference,
            "forward": forward,
            "backward": backward,
            "forward_backward": forward + backward,
        }[mode]
    return total


def make_floor(num_bytes: int, device: str) -> Call:
    """A copy that reads half of the bytes and writes the other half."""
    source = torch.ones(num_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda: [target.copy_(source)]


@dataclass
class Result:
    workload: str
    dtype: str
    layout: str
    mode: str
    threads: int
    peer: str
    equal: float | None  # the share of its results that have the bits of roipool's
    median_ms: float
    spread_ms: float
    over_roipool: float = 1.0  # its median over roipool's
    over_floor: float = 1.0  # its median over that of the floor


def share_of_same_bits(actual: list[Tensor], expected: list[Tensor]) -> float:
    same = total = 0
    for a, b in zip(actual, expected, strict=True):
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[b.element_size()]
        same += int((a.contiguous().view(bits) == b.contiguous().view(bits)).sum())
        total += b.numel()
    return same / max(1, total)


def time_mxnet(
    python: Path, workload: Workload, dtype: str, mode: str, parts: list[Part], rounds: int
) -> tuple[list[float], list[Tensor]]:
    """Seconds, and the outputs of a forward."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {
            "dtype": dtype,
            "mode": mode,
            "rounds": rounds,
            "output_size": workload.output_size,
            "spatial_scales": [part.spatial_scale for part in parts],
        }
        (folder / "job.json").write_text(json.dumps(job))
        for i, part in enumerate(parts):
            np.save(folder / f"input{i}.npy", part.input.contiguous().numpy())
            np.save(folder / f"rois{i}.npy", part.rois.numpy())
        command = [python, Path(__file__).parent / "mxnet_peer.py", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        environment.pop("LD_LIBRARY_PATH", None)
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        outputs = [torch.from_numpy(np.load(folder / f"output{i}.npy")) for i in range(len(parts))]
        return json.loads(printed.splitlines()[-1]), outputs


def measure(
    workload: Workload,
    dtype: str,
    layout: str,
    mode: str,
    pools: dict[str, Pool],
    rounds: int,
    mxnet_python: Path | None = None,
    device: str = "cpu",
) -> list[Result]:
    sets = copies_beyond_the_cache(workload.make(DTYPES[dtype], LAYOUTS[layout], device))
    parts = sets[0]
    num_bytes = bytes_moved(mode, parts, workload.output_size)
    calls: dict[str, Call] = {}
    equal: dict[str, float | None] = {}
    for name, pool in pools.items():
        try:
            calls[name] = in_turn([make_call(mode, pool, copy, workload.output_size) for copy in sets])
            poison(num_bytes, device)
            results = calls[name]()
        except Unable:
            calls.pop(name, None)
            continue
        if name == "roipool":
            expected = results
        equal[name] = share_of_same_bits(results, expected)
        del results
    calls["floor"] = in_turn([make_floor(num_bytes, device) for _ in sets])
    equal["floor"] = None

    times = time_in_turns(calls, rounds, device)
    if mxnet_python and mode != "inference_out" and device == "cpu" and layout == "contiguous" and dtype != "bfloat16":
        times["mxnet"], outputs = time_mxnet(mxnet_python, workload, dtype, mode, parts, rounds)
        reference = make_call("inference", pools["roipool"], parts, workload.output_size)()
        equal["mxnet"] = share_of_same_bits(outputs, reference)
    return make_results((workload.name, dtype, layout, mode), times, equal)


def copies_beyond_the_cache(parts: list[Part]) -> list[list[Part]]:
    """The inputs, and on a GPU as many copies that its second-level cache holds only half of all."""
    if not parts[0].input.is_cuda:
        return [parts]
    cache = torch.cuda.get_device_properties(parts[0].input.device).L2_cache_size
    count = min(32, math.ceil(2 * cache / max(1, sum(part.input.nbytes for part in parts))) + 1)
    copies = [[Part(p.input.clone(), p.rois.clone(), p.spatial_scale) for p in parts] for _ in range(count - 1)]
    return [parts, *copies]


def in_turn(calls: list[Call]) -> Call:
    """One after the other, from the first, each time that it is called."""
    if len(calls) == 1:
        return calls[0]
    turns = itertools.cycle(calls)
    return lambda: next(turns)()


def poison(num_bytes: int, device: str) -> None:
    """Fills what a GPU's allocator will hand out next, where results of an earlier call may lie."""
    if device == "cuda":
        torch.full((num_bytes // 4,), math.nan, device=device)


def time_in_turns(calls: dict[str, Call], rounds: int, device: str) -> dict[str, list[float]]:
    """Seconds of each call in each round. Each finds the caches as the one before left them, so the order varies."""
    time = time_on_gpu if device == "cuda" else time_on_cpu
    times: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds):
        for name in random.Random(i).sample(list(calls), len(calls)):
            times[name].append(time(calls[name]))
    return times


def time_on_cpu(call: Call) -> float:
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.timeit(1).mean  # after two calls to warm up


def time_on_gpu(call: Call) -> float:
    """The mean of calls that together take about 20 ms."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def milliseconds(count: int) -> float:
        begin.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    milliseconds(2)
    count = max(3, min(200, int(20 / (milliseconds(2) / 2))))
    return milliseconds(count) / count / 1e3


def make_results(
    problem: tuple[str, str, str, str], times: dict[str, list[float]], equal: dict[str, float | None]
) -> list[Result]:
    """Of a problem (workload, dtype, layout, mode), for each of those that were timed."""
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    quartiles = {name: statistics.quantiles(seconds, n=4) for name, seconds in times.items()}
    return [
        Result(
            *problem,
            torch.get_num_threads(),
            name,
            equal[name],
            1e3 * medians[name],
            1e3 * (quartiles[name][2] - quartiles[name][0]),
            medians[name] / medians["roipool"],
            medians[name] / medians["floor"],
        )
        for name in times
    ]


def commit() -> str:
    """Of the sources; ROIPOOL_COMMIT where they have travelled without their history."""
    try:
        described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout
    except OSError:
        described = ""
    return described.strip() or os.environ.get("ROIPOOL_COMMIT", "unknown")


def environment(device: str = "cpu") -> dict[str, object]:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    facts = {
        "roipool": roipool.__version__,
        "commit": commit(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "processor": names[0] if names else platform.processor(),
        "cpu_capability": roipool._C.cpu_capability,
        "threads": torch.get_num_threads(),
        **{name: os.environ.get(name) for name in ALLOCATOR_SETTINGS},
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


def show(results: list[Result], console: Console) -> None:
    table = Table("workload", "dtype", "layout", "mode", "peer", "equal", "ms", "spread", "x roipool", "x floor")
    previous = None
    for result in results:
        problem = (result.workload, result.dtype, result.layout, result.mode)
        if previous not in (None, problem):
            table.add_section()
        previous = problem
        table.add_row(
            *problem,
            result.peer,
            "" if result.equal is None else f"{result.equal:.2%}",
            f"{result.median_ms:.3f}",
            f"{result.spread_ms:.3f}",
            f"{result.over_roipool:.2f}",
            f"{result.over_floor:.2f}",
        )
    console.print(table)


def plot(results: list[Result], path: Path) -> None:
    """One row of bars for each problem: how many times as long as roipool each peer takes."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    problems = list(dict.fromkeys((r.workload, r.dtype, r.layout, r.mode) for r in results))
    peers = list(dict.fromkeys(r.peer for r in results))
    figure, axes = plt.subplots(figsize=(9, 1.5 + 0.16 * len(results)), layout="constrained")
    for i, peer in enumerate(peers):
        bars = {(r.workload, r.dtype, r.layout, r.mode): r.over_roipool for r in results if r.peer == peer}
        rows = [problems.index(problem) + 0.8 * (i + 0.5) / len(peers) - 0.4 for problem in bars]
        drawn = axes.barh(rows, list(bars.values()), height=0.8 / len(peers), label=peer)
        axes.bar_label(drawn, fmt="%.3g", fontsize=7, padding=2)
    axes.set_yticks(range(len(problems)), [" ".join(problem) for problem in problems])
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("time over roipool's (median)")
    axes.margins(x=0.05, y=0.01)
    figure.legend(loc="outside upper center", ncols=4)
    figure.savefig(path, dpi=100)


def write_json(results: list[Result], path: Path, device: str = "cpu") -> None:
    report = {"environment": environment(device), "results": [asdict(result) for result in results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def several(flag: str, choices: list[str], default: list[str], what: str) -> None:
        help = f"{what}: {', '.join(choices)} (default: {', '.join(default)})"
        parser.add_argument(flag, nargs="+", choices=choices, default=default, metavar="NAME", help=help)

    ordinary = [name for name, workload in WORKLOADS.items() if not workload.for_gpus]
    several("--workload", list(WORKLOADS), ordinary, "the problems")
    several("--mode", MODES, MODES, "what to time")
    several("--dtype", list(DTYPES), ["float32"], "of the features")
    several("--layout", list(LAYOUTS), ["contiguous"], "of the features")
    several("--peers", list(PEERS), list(PEERS), "beside roipool, of those that are installed")
    parser.add_argument("--mxnet-python", type=Path, metavar="PATH", help="the Python of an environment with MXNet")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender (all cores)")
    parser.add_argument("--rounds", type=int, default=9, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw them there")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")

    pools = available(arguments.peers)
    problems = [
        (workload, dtype, layout, mode)
        for workload in arguments.workload
        for dtype in arguments.dtype
        for layout in arguments.layout
        for mode in arguments.mode
    ]
    console = Console() if Console().is_terminal else Console(width=140)
    results: list[Result] = []
    with Progress(console=console, transient=True) as progress:
        for workload, *rest in progress.track(problems, description="timing"):
            results += measure(
                WORKLOADS[workload],
                *rest,
                pools=pools,
                rounds=arguments.rounds,
                mxnet_python=arguments.mxnet_python,
                device=arguments.device,
            )
    show(results, console)
    if arguments.json:
        write_json(results, arguments.json, arguments.device)
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
