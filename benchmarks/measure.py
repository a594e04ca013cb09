"""Measures the contenders on one problem: equality first, then time."""

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from calls import Call, bytes_moved, make_call, make_floor
from peers import Pool, Unable, time_mxnet
from timing import copies_beyond_the_cache, in_turn, poison, time_in_turns
from torch import Tensor
from workloads import Workload

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}


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
