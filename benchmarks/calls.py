"""Makes the calls that are timed: a workload in one of the modes, and the copy that is their memory floor."""

from collections.abc import Callable

import torch
from peers import KEEP_OUTPUTS, Peer, Unable
from torch import Tensor
from workloads import Part

MODES = ["inference", "inference_out", "forward", "backward", "forward_backward"]
Call = Callable[[], list[Tensor]]


def make_call(mode: str, peer: Peer, parts: list[Part], output_size: tuple[int, int]) -> Call:
    """Returns the call of a mode. It returns the pooled regions, or the gradients if the mode ends in a backward."""
    if mode == "inference":
        return make_inference(peer, parts, output_size)
    if mode == "inference_out":
        return make_inference_out(peer, parts, output_size)
    parts = [Part(part.input.detach().requires_grad_(), part.rois, part.spatial_scale) for part in parts]

    def forward() -> list[Tensor]:
        return [peer(part, output_size) for part in parts]

    if mode == "forward":
        return forward
    return make_backward(forward, [part.input for part in parts], with_forward=mode == "forward_backward")


def make_inference(peer: Peer, parts: list[Part], output_size: tuple[int, int]) -> Call:
    def inference() -> list[Tensor]:
        with torch.no_grad():
            return [peer(part, output_size) for part in parts]

    return inference


def make_inference_out(peer: Peer, parts: list[Part], output_size: tuple[int, int]) -> Call:
    """Returns a call that writes to memory that is kept. Raises Unable if the peer cannot do so."""
    if peer.__name__ not in KEEP_OUTPUTS:
        raise Unable
    with torch.no_grad():
        outs = [peer(part, output_size).clone() for part in parts]

    def inference_out() -> list[Tensor]:
        with torch.no_grad():
            return [peer(part, output_size, out=out) for part, out in zip(parts, outs, strict=True)]

    return inference_out


def make_backward(forward: Call, inputs: list[Tensor], with_forward: bool) -> Call:
    """Returns a call of the backward, after a forward of its own or again and again after the same one."""
    grads = [torch.ones_like(output) for output in forward()]
    if with_forward:
        return lambda: list(torch.autograd.grad(forward(), inputs, grads))
    outputs = forward()
    return lambda: list(torch.autograd.grad(outputs, inputs, grads, retain_graph=True))


def count_bytes_moved(mode: str, parts: list[Part], output_size: tuple[int, int]) -> int:
    """Counts the bytes that a call must read and write once: the input, the regions, the results."""
    total_bytes = 0
    for part in parts:
        num_values = len(part.rois) * part.input.shape[1] * output_size[0] * output_size[1]
        output_bytes, argmax_bytes = num_values * part.input.element_size(), num_values * 4
        inference_bytes = part.input.nbytes + part.rois.nbytes + output_bytes
        forward_bytes = inference_bytes + argmax_bytes
        backward_bytes = output_bytes + argmax_bytes + part.input.nbytes
        total_bytes += {
            "inference": inference_bytes,
            "inference_out": inference_bytes,
            "forward": forward_bytes,
            "backward": backward_bytes,
            "forward_backward": forward_bytes + backward_bytes,
        }[mode]
    return total_bytes


def make_floor(num_bytes: int, device: str) -> Call:
    """Returns a copy that reads half of the bytes and writes the other half."""
    source = torch.ones(num_bytes // 2, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return lambda: [target.copy_(source)]
