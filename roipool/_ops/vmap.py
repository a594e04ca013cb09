"""Gives the operators their batching rules, which say what torch.func.vmap does with them.

A mapped dimension becomes part of the batch. B mapped problems of N images and K regions each make one problem of B * N
images and B * K regions, in which the regions of problem b lie in the images from b * N on:

    input, grad_input             (B, N, C, H, W)    ->  (B * N, C, H, W)
    rois                          (B, K, 5)          ->  (B * K, 5), batch_index shifted
    output, argmax, grad_output   (B, K, C, PH, PW)  ->  (B * K, C, PH, PW)

All problems share what is not mapped. The maps of a pyramid are folded one by one. Regions keep their order, so sums
have the same bits as without vmap.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from roipool._ops.load import ops

# The mapped dimension of each argument, or None where it has none. A list of maps has a list of them.
Dims = tuple[Any, ...]

Rule = Callable[..., tuple[Any, Any]]


def register() -> None:
    for name in ["roi_pool", "multiscale_roi_pool"]:
        for suffix, make_rule in RULES.items():
            op = getattr(ops, f"{name}{suffix}").default
            torch.library.register_vmap(f"roipool::{name}{suffix}", make_rule(op))


# ---- Folding. `num_problems` is B, `dim` the mapped dimension of a tensor.


def expand_to_problems(tensor: Tensor, dim: int | None, num_problems: int) -> Tensor:
    """Returns (B, A, ...): the mapped dimension comes first, or a new one where all problems share the tensor."""
    return tensor.expand(num_problems, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def fold(tensor: Tensor, dim: int | None, num_problems: int) -> Tensor:
    """Returns (B * A, ...)."""
    return expand_to_problems(tensor, dim, num_problems).flatten(0, 1)


def fold_rois(rois: Tensor, dim: int | None, num_problems: int, num_images: int) -> Tensor:
    """Returns rois (B * K, 5) with batch indices into B * num_images images, or -1 for none of the num_images."""
    rois = expand_to_problems(rois, dim, num_problems)
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))  # float16 cannot count so many images
    if num_problems * num_images > 2**24 and rois.dtype == torch.float32:
        raise ValueError(
            f"vmap of roi_pool makes one batch of {num_problems} x {num_images} images, which float32 rois cannot "
            "number: make them float64, or map fewer at a time (chunk_size)"
        )
    index = rois[..., 0].trunc()
    first = num_images * torch.arange(num_problems, device=rois.device)
    index = torch.where((index >= 0) & (index < num_images), index + first[:, None], -1)
    return torch.cat([index[..., None], rois[..., 1:]], -1).flatten(0, 1)


def fold_maps(maps: Any, rois: Tensor, dims: Dims, num_problems: int) -> tuple[Any, Tensor]:
    """Returns the folded map, or list of maps, and rois."""
    map_dims, rois_dim, *_ = dims
    if isinstance(maps, Tensor):
        (folded,), rois = fold_maps([maps], rois, ([map_dims], rois_dim), num_problems)
        return folded, rois
    if all(dim is None for dim in map_dims):  # just more regions of the same images
        return maps, fold(rois, rois_dim, num_problems)
    expanded = [expand_to_problems(map, dim, num_problems) for map, dim in zip(maps, map_dims, strict=True)]
    return [map.flatten(0, 1) for map in expanded], fold_rois(rois, rois_dim, num_problems, expanded[0].shape[1])


def unfold_regions(tensor: Tensor, rois: Tensor, rois_dim: int | None, num_problems: int) -> Tensor:
    """Returns (B, K, C, PH, PW) of an output or argmax; K is that of rois as they were."""
    num_regions = expand_to_problems(rois, rois_dim, num_problems).shape[1]
    return tensor.unflatten(0, (num_problems, num_regions))


# ---- Rules, for one map and for a pyramid of maps.


def make_forward_rule(op: Callable[..., Any]) -> Rule:
    def rule(info: Any, dims: Dims, maps: Any, rois: Tensor, *others: Any) -> tuple[Any, Any]:
        output = op(*fold_maps(maps, rois, dims, info.batch_size), *others)
        return unfold_regions(output, rois, dims[1], info.batch_size), 0

    return rule


def make_forward_with_argmax_rule(op: Callable[..., Any]) -> Rule:
    def rule(info: Any, dims: Dims, maps: Any, rois: Tensor, *others: Any) -> tuple[Any, Any]:
        results = op(*fold_maps(maps, rois, dims, info.batch_size), *others)
        return tuple(unfold_regions(result, rois, dims[1], info.batch_size) for result in results), (0, 0)

    return rule


def make_backward_rule(op: Callable[..., Any]) -> Rule:
    def rule(
        info: Any, dims: Dims, grad_output: Tensor, rois: Tensor, argmax: Tensor, num_images: int, *others: Any
    ) -> tuple[Any, Any]:
        num_problems = info.batch_size
        grads = op(
            fold(grad_output, dims[0], num_problems),
            fold_rois(rois, dims[1], num_problems, num_images),
            fold(argmax, dims[2], num_problems),
            num_problems * num_images,
            *others,
        )
        if isinstance(grads, Tensor):
            return grads.unflatten(0, (num_problems, num_images)), 0
        return [grad.unflatten(0, (num_problems, num_images)) for grad in grads], [0] * len(grads)

    return rule


def make_gather_rule(op: Callable[..., Any]) -> Rule:
    def rule(info: Any, dims: Dims, maps: Any, rois: Tensor, argmax: Tensor, *others: Any) -> tuple[Any, Any]:
        folded = fold_maps(maps, rois, dims, info.batch_size)
        output = op(*folded, fold(argmax, dims[2], info.batch_size), *others)
        return unfold_regions(output, rois, dims[1], info.batch_size), 0

    return rule


# The rule of each operator, by what follows roi_pool or multiscale_roi_pool in its name.
RULES = {
    "": make_forward_rule,
    "_with_argmax": make_forward_with_argmax_rule,
    "_backward": make_backward_rule,
    "_gather": make_gather_rule,
}
