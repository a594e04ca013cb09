"""Measures roipool and its peers on one problem: whether their results have the same bits, then their times."""

import statistics
from dataclasses import dataclass
from pathlib import Path

import torch
from calls import Call, count_bytes_moved, make_call, make_floor
from peers import Peer, Unable, time_mxnet
from settings import current_setting
from timing import copy_beyond_the_cache, count_page_faults, fill_free_memory_with_nan, take_turns, time_in_turns
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
    """Says how one contender did on one problem: roipool, a peer, or the memory floor."""

    workload: str
    dtype: str
    layout: str
    mode: str
    threads: int
    peer: str
    equal: float | None  # the share of its values that have the bits of roipool's
    median_ms: float
    spread_ms: float
    over_roipool: float = 1.0  # its median over roipool's
    over_floor: float = 1.0  # its median over the floor's
    setting: str = "default"  # of the allocator
    page_faults: int | None = None  # of one warm call; None on a GPU, and for MXNet, which has another process

    @property
    def problem(self) -> tuple[str, str, str, str]:
        return self.workload, self.dtype, self.layout, self.mode


def share_of_same_bits(actual: list[Tensor], expected: list[Tensor]) -> float:
    num_same = num_values = 0
    for a, b in zip(actual, expected, strict=True):
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[b.element_size()]
        num_same += int((a.contiguous().view(bits) == b.contiguous().view(bits)).sum())
        num_values += b.numel()
    return num_same / max(1, num_values)


def measure(
    workload: Workload,
    dtype: str,
    layout: str,
    mode: str,
    peers: dict[str, Peer],
    num_rounds: int,
    mxnet_python: Path | None = None,
    device: str = "cpu",
) -> list[Result]:
    """Times the peers, of which roipool is the first, and the floor. Leaves out those that are unable."""
    copies = copy_beyond_the_cache(workload.make(DTYPES[dtype], LAYOUTS[layout], device))
    parts = copies[0]
    num_bytes = count_bytes_moved(mode, parts, workload.output_size)
    calls: dict[str, Call] = {}
    equal: dict[str, float | None] = {}
    for name, peer in peers.items():
        try:
            calls[name] = take_turns([make_call(mode, peer, copy, workload.output_size) for copy in copies])
            fill_free_memory_with_nan(num_bytes, device)
            values = calls[name]()
        except Unable:
            calls.pop(name, None)
            continue
        if name == "roipool":
            expected = values
        equal[name] = share_of_same_bits(values, expected)
        del values
    calls["floor"] = take_turns([make_floor(num_bytes, device) for _ in copies])
    equal["floor"] = None

    times = time_in_turns(calls, num_rounds, device)
    page_faults = count_page_faults(calls) if device == "cpu" else {}
    if mxnet_python and mode != "inference_out" and device == "cpu" and layout == "contiguous" and dtype != "bfloat16":
        times["mxnet"], outputs = time_mxnet(mxnet_python, workload, dtype, mode, parts, num_rounds)
        inference = make_call("inference", peers["roipool"], parts, workload.output_size)
        equal["mxnet"] = share_of_same_bits(outputs, inference())
    return make_results((workload.name, dtype, layout, mode), times, equal, page_faults)


def make_results(
    problem: tuple[str, str, str, str],
    times: dict[str, list[float]],
    equal: dict[str, float | None],
    page_faults: dict[str, int],
) -> list[Result]:
    """Returns the result of each contender on a problem (workload, dtype, layout, mode), from its seconds."""
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
            current_setting(),
            page_faults.get(name),
        )
        for name in times
    ]
