"""Times roipool beside its peers: in one process, in alternation, on the same tensors, equality checked first.

    python benchmarks/run.py --workload fpn vgg --mode inference --json result.json --plot result.png

A figure is the median over the rounds; the spread is the distance between its quartiles. On a shared machine only the
ratios mean anything: "x roipool" is a peer's median over roipool's, "x floor" is a median over the time that it takes
to copy as many bytes as the call must read and write once, between buffers that are mapped already.

On CUDA, a figure is the mean of some calls in a row, between CUDA events, in eager mode, so that launches overlap with
the work before them. Calls take turns with copies of the inputs that together exceed the second-level cache. Before
results are checked, the memory that they will get is filled with NaN.

Results and gradients live in fresh memory, as they do for users, in the default settings of the allocator: its
environment variables are removed where the caller has set them. How much of the time fresh memory takes is what other
settings show, each in a process of its own (--settings default huge_pages kept). Huge pages are those that PyTorch asks
for (THP_MEM_ALLOC_ENABLE=1). Where memory is kept, glibc hands out again what was freed as well (MALLOC_MMAP_MAX_=0
MALLOC_TRIM_THRESHOLD_=8589934592), as jemalloc and tcmalloc do. "faults" are the page faults of one call. The mode
inference_out is inference into memory that is kept by the caller (out=), by those that can.

MXNet is timed right after the others, in a process of its own (--mxnet-python).
"""

import argparse
from pathlib import Path

import torch
from calls import MODES
from measure import DTYPES, LAYOUTS, Result, measure
from peers import PEERS, load_peers
from report import make_console, plot_results, print_results, write_json
from rich.progress import Progress
from settings import add_settings, measure_in_settings
from workloads import WORKLOADS


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)

    def add_list(flag: str, choices: list[str], default: list[str], what: str) -> None:
        help = f"{what}: {', '.join(choices)} (default: {', '.join(default)})"
        parser.add_argument(flag, nargs="+", choices=choices, default=default, metavar="NAME", help=help)

    for_cpus = [name for name, workload in WORKLOADS.items() if not workload.for_gpus]
    add_list("--workload", list(WORKLOADS), for_cpus, "the problems")
    add_list("--mode", MODES, MODES, "what to time")
    add_list("--dtype", list(DTYPES), ["float32"], "of the features")
    add_list("--layout", list(LAYOUTS), ["contiguous"], "of the features")
    add_list("--peers", list(PEERS), list(PEERS), "beside roipool, of those that are installed")
    add_settings(parser)
    parser.add_argument("--mxnet-python", type=Path, metavar="PATH", help="the Python of an environment with MXNet")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where to run (%(default)s)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="for every contender (all cores)")
    parser.add_argument("--rounds", type=int, default=9, help="of alternation (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there as well")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="draw them there")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU")
    return arguments


def measure_problems(arguments: argparse.Namespace) -> list[Result]:
    """Measures all problems in the setting that this process has."""
    torch.set_num_threads(arguments.threads)
    peers = load_peers(arguments.peers)
    problems = [
        (workload, dtype, layout, mode)
        for workload in arguments.workload
        for dtype in arguments.dtype
        for layout in arguments.layout
        for mode in arguments.mode
    ]
    results: list[Result] = []
    with Progress(console=make_console(), transient=True) as progress:
        for workload, *rest in progress.track(problems, description="timing"):
            results += measure(
                WORKLOADS[workload],
                *rest,
                peers=peers,
                num_rounds=arguments.rounds,
                mxnet_python=arguments.mxnet_python,
                device=arguments.device,
            )
    return results


def main() -> None:
    arguments = parse_arguments()
    results = measure_in_settings(arguments.settings, measure_problems, arguments)
    print_results(results, make_console())
    if arguments.json:
        write_json(results, arguments.json, arguments.device, arguments.settings)
    if arguments.plot:
        plot_results(results, arguments.plot)


if __name__ == "__main__":
    main()
