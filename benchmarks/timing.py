"""Times calls in turns, on the CPU or on a GPU."""

import itertools
import math
import random

import torch
from calls import Call
from torch.utils.benchmark import Timer
from workloads import Part


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
