"""Times calls in turns, on the CPU or on a GPU, and counts their page faults."""

import itertools
import math
import random
from collections.abc import Callable
from resource import RUSAGE_SELF, getrusage
from typing import Any

import torch
from calls import Call
from torch.utils.benchmark import Timer
from workloads import Part

GPU_MILLISECONDS = 20  # that the calls behind one figure take together, roughly


def copy_beyond_the_cache(parts: list[Part], max_copies: int = 31) -> list[list[Part]]:
    """Returns the parts and, on a GPU, so many copies that its second-level cache holds at most half of them all."""
    if not parts[0].input.is_cuda:
        return [parts]
    cache_bytes = torch.cuda.get_device_properties(parts[0].input.device).L2_cache_size
    part_bytes = max(1, sum(part.input.nbytes for part in parts))
    num_copies = min(max_copies, math.ceil(2 * cache_bytes / part_bytes))
    return [
        parts,
        *([Part(p.input.clone(), p.rois.clone(), p.spatial_scale) for p in parts] for _ in range(num_copies)),
    ]


def take_turns(calls: list[Call]) -> Call:
    """Returns a call that makes one of the calls each time, from the first one on, in a circle."""
    if len(calls) == 1:
        return calls[0]
    turns = itertools.cycle(calls)
    return lambda: next(turns)()


def capture_graph(call: Callable[[], Any]) -> Callable[[], Any]:
    """Returns the replay of the call as a CUDA graph, which returns what the call does."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # once before it is captured, as PyTorch asks for
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = call()

    def replay() -> Any:
        graph.replay()
        return results

    return replay


def fill_free_memory_with_nan(num_bytes: int, device: str) -> None:
    """Overwrites what a GPU's allocator will hand out next: results of an earlier call may lie there."""
    if device == "cuda":
        torch.full((num_bytes // 4,), math.nan, device=device)


def time_in_turns(calls: dict[str, Call], num_rounds: int, device: str) -> dict[str, list[float]]:
    """Returns the seconds of each call in each round.

    The order differs from round to round, since each call finds the caches as the one before left them.
    """
    time_call = time_on_gpu if device == "cuda" else time_on_cpu
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_index in range(num_rounds):
        for name in random.Random(round_index).sample(list(calls), len(calls)):
            times[name].append(time_call(calls[name]))
    return times


def time_on_cpu(call: Call) -> float:
    """Returns the seconds of one call; Timer makes two others first, to warm up."""
    timer = Timer("call()", globals={"call": call}, num_threads=torch.get_num_threads())
    return timer.timeit(1).mean


def time_on_gpu(call: Call) -> float:
    """Returns the mean seconds of calls in a row that together take about GPU_MILLISECONDS."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def milliseconds_of(num_calls: int) -> float:
        begin.record()
        for _ in range(num_calls):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)

    milliseconds_of(2)  # to warm up
    num_calls = max(3, min(200, int(GPU_MILLISECONDS / (milliseconds_of(2) / 2))))
    return milliseconds_of(num_calls) / num_calls / 1e3


def count_page_faults(calls: dict[str, Call]) -> dict[str, int]:
    """Counts the minor page faults of one warm call each, on the CPU: how often it is first to touch a page."""
    page_faults = {}
    for name, call in calls.items():
        for _ in range(3):  # the heap grows until then
            call()
        before = getrusage(RUSAGE_SELF).ru_minflt
        call()
        page_faults[name] = getrusage(RUSAGE_SELF).ru_minflt - before
    return page_faults
