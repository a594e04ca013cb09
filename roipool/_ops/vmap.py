"""Batching rules of the operators: what torch.func.vmap does with them.

A mapped dimension becomes part of the batch. Of B mapped problems of N images and K regions each, B * N images and
B * K regions make one problem, in which the regions of problem b lie in the images from b * N on:

    input, grad_input             (B, N, C, H, W)    ->  (B * N, C, H, W)
    rois                          (B, K, 5)          ->  (B * K, 5), batch_index shifted
    output, argmax, grad_output   (B, K, C, PH, PW)  ->  (B * K, C, PH, PW)

What is not mapped is the same in all problems. Regions keep their order, so sums have the same bits as without vmap.
"""

from typing import Any

import torch
from torch import Tensor

ops = torch.ops.roipool

# The mapped dimension of each argument; None where it has none.
Dims = tuple[int | None, ...]


def for_each_problem(tensor: Tensor, dim: int | None, problems: int) -> Tensor:
    """(B, A, ...), with the mapped dimension first, or a new one where all problems share the tensor."""
    return tensor.expand(problems, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def fold(tensor: Tensor, dim: int | None, problems: int) -> Tensor:
    """(B * A, ...)."""
    return for_each_problem(tensor, dim, problems).flatten(0, 1)


def unfold(tensor: Tensor, problems: int, size: int) -> Tensor:
    return tensor.unflatten(0, (problems, size))


def num_regions(rois: Tensor, dim: int | None, problems: int) -> int:
    """K, of one problem."""
    return for_each_problem(rois, dim, problems).shape[1]


def fold_rois(rois: Tensor, dim: int | None, problems: int, num_images: int) -> Tensor:
    """Rois (B * K, 5) with batch indices into B * num_images images, or -1 where they are none of the num_images."""
    rois = for_each_problem(rois, dim, problems)
    rois = rois.to(torch.promote_types(rois.dtype, torch.float32))  # float16 cannot count so many images
    if problems * num_images > 2**24 and rois.dtype == torch.float32:
        raise ValueError(
            f"vmap of roi_pool makes one batch of {problems} x {num_images} images, which float32 rois cannot number: "
            "make them float64, or map fewer at a time (chunk_size)"
        )
    index = rois[..., 0].trunc()
    first = num_images * torch.arange(problems, device=rois.device)
    index = torch.where((index >= 0) & (index < num_images), index + first[:, None], -1)
    return torch.cat([index[..., None], rois[..., 1:]], -1).flatten(0, 1)


def roi_pool(
    info: Any, in_dims: Dims, input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> tuple[Tensor, int]:
    arguments = fold_forward(info.batch_size, in_dims, input, rois)
    output = ops.roi_pool.default(*arguments, pooled_height, pooled_width, spatial_scale)
    return unfold(output, info.batch_size, num_regions(rois, in_dims[1], info.batch_size)), 0


def roi_pool_with_argmax(
    info: Any, in_dims: Dims, input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    arguments = fold_forward(info.batch_size, in_dims, input, rois)
    output, argmax = ops.roi_pool_with_argmax.default(*arguments, pooled_height, pooled_width, spatial_scale)
    size = num_regions(rois, in_dims[1], info.batch_size)
    return (unfold(output, info.batch_size, size), unfold(argmax, info.batch_size, size)), (0, 0)


def fold_forward(problems: int, in_dims: Dims, input: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
    input_dim, rois_dim, *_ = in_dims
    if input_dim is None:  # just more regions of the same images
        return input, fold(rois, rois_dim, problems)
    input = input.movedim(input_dim, 0)
    return input.flatten(0, 1), fold_rois(rois, rois_dim, problems, input.shape[1])


def roi_pool_backward(
    info: Any,
    in_dims: Dims,
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    batch_size: int,
    height: int,
    width: int,
) -> tuple[Tensor, int]:
    problems = info.batch_size
    grad_input = ops.roi_pool_backward.default(
        fold(grad_output, in_dims[0], problems),
        fold_rois(rois, in_dims[1], problems, batch_size),
        fold(argmax, in_dims[2], problems),
        problems * batch_size,
        height,
        width,
    )
    return grad_input.unflatten(0, (problems, batch_size)), 0


def roi_pool_gather(info: Any, in_dims: Dims, input: Tensor, rois: Tensor, argmax: Tensor) -> tuple[Tensor, int]:
    problems = info.batch_size
    folded = fold_forward(problems, in_dims, input, rois)
    output = ops.roi_pool_gather.default(*folded, fold(argmax, in_dims[2], problems))
    return unfold(output, problems, num_regions(rois, in_dims[1], problems)), 0


# ---- The same for a feature pyramid, whose maps are folded one by one. `in_dims` has a list of dimensions for them.


def multiscale_roi_pool(
    info: Any, in_dims: Any, inputs: list[Tensor], rois: Tensor, *arguments: Any
) -> tuple[Tensor, int]:
    folded = fold_pyramid(info.batch_size, in_dims, inputs, rois)
    output = ops.multiscale_roi_pool.default(*folded, *arguments)
    return unfold(output, info.batch_size, num_regions(rois, in_dims[1], info.batch_size)), 0


def multiscale_roi_pool_with_argmax(
    info: Any, in_dims: Any, inputs: list[Tensor], rois: Tensor, *arguments: Any
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    folded = fold_pyramid(info.batch_size, in_dims, inputs, rois)
    output, argmax = ops.multiscale_roi_pool_with_argmax.default(*folded, *arguments)
    size = num_regions(rois, in_dims[1], info.batch_size)
    return (unfold(output, info.batch_size, size), unfold(argmax, info.batch_size, size)), (0, 0)


def fold_pyramid(problems: int, in_dims: Any, inputs: list[Tensor], rois: Tensor) -> tuple[list[Tensor], Tensor]:
    inputs_dims, rois_dim, *_ = in_dims
    if all(dim is None for dim in inputs_dims):  # just more regions of the same images
        return inputs, fold(rois, rois_dim, problems)
    maps = [for_each_problem(input, dim, problems) for input, dim in zip(inputs, inputs_dims, strict=True)]
    return [map.flatten(0, 1) for map in maps], fold_rois(rois, rois_dim, problems, maps[0].shape[1])


def multiscale_roi_pool_backward(
    info: Any, in_dims: Dims, grad_output: Tensor, rois: Tensor, argmax: Tensor, batch_size: int, *arguments: Any
) -> tuple[list[Tensor], list[int]]:
    problems = info.batch_size
    grad_inputs = ops.multiscale_roi_pool_backward.default(
        fold(grad_output, in_dims[0], problems),
        fold_rois(rois, in_dims[1], problems, batch_size),
        fold(argmax, in_dims[2], problems),
        problems * batch_size,
        *arguments,
    )
    return [grad.unflatten(0, (problems, batch_size)) for grad in grad_inputs], [0] * len(grad_inputs)


def multiscale_roi_pool_gather(
    info: Any, in_dims: Any, inputs: list[Tensor], rois: Tensor, argmax: Tensor, *pyramid: Any
) -> tuple[Tensor, int]:
    problems = info.batch_size
    folded = fold_pyramid(problems, in_dims, inputs, rois)
    output = ops.multiscale_roi_pool_gather.default(*folded, fold(argmax, in_dims[2], problems), *pyramid)
    return unfold(output, problems, num_regions(rois, in_dims[1], problems)), 0
