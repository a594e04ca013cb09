"""Makes the calls that are timed: a workload in one of the modes, and the copy that is their floor."""

from collections.abc import Callable

import torch
from peers import KEEP_OUTPUTS, Pool, Unable
from torch import Tensor
from workloads import Part

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
