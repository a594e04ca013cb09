"""roi_pool() and multiscale_roi_pool(): they take the forms that arguments may
have, then call the operators."""

from __future__ import annotations  # lets help() show the names of types, as they stand here

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor
from torch.overrides import has_torch_function

from roipool._ops import bad_boxes
from roipool._ops.arguments import (
    Array,
    Scale,
    Size,
    apply_scale,
    convert_boxes_to_rois,
    parse_output_size,
    parse_scales,
    scale_rois,
)
from roipool._ops.autograd import KERNELS, is_plain_call
from roipool._ops.checks import (
    check_is_feature_tensor,
    check_is_scale,
    check_is_tensor,
    check_multiscale_roi_pool,
    check_num_levels,
    check_pyramid,
    is_int,
)
from roipool._ops.levels import pool_level_by_level
from roipool._ops.load import ops
from roipool._ops.out import call_with_out
from roipool._ops.script import not_scriptable
from roipool._ops.subclasses import call_subclasses, view_for_compiler
from roipool._ops.torch_private import assume_constant_result, is_captured


# Runs outside of torch.compile, which would take it for False in strict exports.
@assume_constant_result
def is_exporting_to_onnx() -> bool:
    return torch.onnx.is_in_onnx_export()


def call_operator(name: str, *arguments: Any) -> Any:
    """Calls a forward operator by the shortest way that is open."""
    if is_plain_call():
        return KERNELS[name](*arguments)
    if is_exporting_to_onnx():
        from roipool.onnx import RECORDERS

        return RECORDERS[name](*arguments)
    return getattr(ops, name).default(*arguments)


@overload
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scale: Scale = 1.0,
    *,
    return_argmax: Literal[False] = False,
    out: Tensor | None = None,
) -> Tensor: ...


@overload
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scale: Scale = 1.0,
    *,
    return_argmax: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scale: Scale = 1.0,
    *,
    return_argmax: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


@not_scriptable
def roi_pool(
    input: Tensor,
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scale: Scale = 1.0,
    *,
    return_argmax: bool = False,
    out: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Max-pools each region of interest to a fixed grid of bins.

    The operator of Girshick, Fast R-CNN (2015), section 2.1, and a drop-in for
    :func:`torchvision.ops.roi_pool`. Bit for bit the ``ROIPooling`` of MXNet
    1.9.1 on ordinary input; docs/semantics.md lists where it differs from
    either. :func:`roipool.reference.roi_pool` computes the same in plain
    PyTorch.

    A region covers the feature cells
    ``round(x1 * spatial_scale) .. round(x2 * spatial_scale)``, both ends
    included (likewise in y), at least one cell, and is cut into ``PH x PW``
    bins of equal size, rounded outwards to whole cells and clipped to the map.
    Each bin gives its largest value; a NaN wins, and of equal values the first
    in row-major order. A bin with no cell, and every bin of a region whose
    ``batch_index`` is outside the batch or whose coordinates are not finite,
    gives 0.

    Args:
        input: feature maps, or the images themselves, of shape
            ``(N, C, H, W)``: float16, bfloat16, float32 or float64. Contiguous
            and channels_last memory are read as they are.
        boxes: regions in image pixels. Either ``(K, 5)`` with rows
            ``[batch_index, x1, y1, x2, y2]``, or N tensors ``(L_i, 4)``, one
            for each image, with rows ``[x1, y1, x2, y2]``, in a list or a
            NestedTensor. Any floating dtype, int32 or int64, whatever the dtype
            of ``input``; float64 boxes are placed in float64, all others in
            float32. A subclass of Tensor that cannot handle that of ``input``
            is treated as a plain tensor.
        output_size: bins per region, ``PH = PW`` or ``(PH, PW)``; ints, or
            tensors or arrays of ints (under ``torch.compile``, ints).
        spatial_scale: feature cells per image pixel, ``1 / stride``; finite and
            greater than 0. A pair ``(y, x)`` where the strides of the axes
            differ: each coordinate is scaled by that of its axis. Numbers, or
            tensors or arrays of them; in ``torch.jit.trace`` and under
            ``torch.compile`` those in tensors are not looked at, and remain
            inputs of the graph.
        return_argmax: also return where each value was found.
        out: a tensor for ``output``, of the dtype and on the device of
            ``input``. It is resized where it has another shape, with a warning
            unless it is empty (under ``torch.compile`` it must fit), and is
            written to without a copy where it has the memory format of
            ``input``. It cannot be given together with ``return_argmax``, or
            where a derivative is asked for.

    Returns:
        ``output`` of shape ``(K, C, PH, PW)``, in the dtype and memory format
        of ``input``. With ``return_argmax``, the tuple ``(output, argmax)``:
        ``argmax`` has the shape of ``output`` and dtype int32 and holds
        ``y * W + x`` of the cell that gave the value, or -1 where the bin has
        no cell.

        Differentiable in ``input``, in reverse and forward mode, to any order.
        Gradients are summed in float32 (float64 for float64 input) in a fixed
        order, so they have the same bits in every run and for any number of
        threads. ``boxes`` get no gradient, but where they require one,
        ``output`` does too, as torchvision's.

    Raises:
        TypeError: an argument is of the wrong type, or a tensor of the wrong
            dtype, or not dense.
        ValueError: a wrong shape or length, tensors on different devices,
            ``output_size`` less than 1, ``spatial_scale`` not finite or not
            greater than 0, ``H * W`` greater than 2147483647, or ``out`` of
            another dtype than ``input``, or together with ``return_argmax``;
            torchvision's ``BoundingBoxes`` of another format than XYXY; bad
            boxes, while :class:`roipool.set_detect_bad_boxes` has them looked
            for.
        RuntimeError: ``out`` is given and a derivative is asked for.

    Example:
        >>> import torch, roipool
        >>> features = torch.arange(48.0).view(1, 1, 8, 6)
        >>> boxes = torch.tensor([[0, 0, 0, 4, 4]])
        >>> roipool.roi_pool(features, boxes, output_size=2)
        tensor([[[[14., 16.],
                  [26., 28.]]]])
        >>> roipool.roi_pool(features, boxes, output_size=2, spatial_scale=0.7)
        tensor([[[[ 7.,  9.],
                  [19., 21.]]]])
    """
    tensors = (input, *boxes, out) if isinstance(boxes, (list, tuple)) else (input, boxes, out)
    if has_torch_function(tensors):  # there are subclasses of Tensor, or the proxies of torch.fx
        if not torch.compiler.is_compiling():
            others = (output_size, spatial_scale)
            return call_subclasses(roi_pool, tensors, input, boxes, *others, return_argmax=return_argmax, out=out)
        input, boxes = view_for_compiler(input, boxes)
    check_is_feature_tensor(input, "input")
    pooled_height, pooled_width = parse_output_size(output_size)
    rois = convert_boxes_to_rois(boxes, input)
    if bad_boxes.is_detecting:
        bad_boxes.check_regions(rois, boxes, input)
    if type(spatial_scale) is not float:
        rois, spatial_scale = apply_scale(rois, spatial_scale)
    arguments = (input, rois, pooled_height, pooled_width, spatial_scale)
    if out is not None:
        check_is_tensor(out, "out")
        if is_exporting_to_onnx():
            raise ValueError("ONNX has no operator for out=: leave it out of the model (docs/guides/onnx.md)")
        if return_argmax:
            raise ValueError("out cannot be given together with return_argmax")
        return call_with_out(arguments, out)
    return call_operator("roi_pool_with_argmax" if return_argmax else "roi_pool", *arguments)


@overload
def multiscale_roi_pool(
    inputs: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scales: Sequence[Scale] | Array,
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    return_argmax: Literal[False] = False,
) -> Tensor: ...


@overload
def multiscale_roi_pool(
    inputs: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scales: Sequence[Scale] | Array,
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    return_argmax: Literal[True],
) -> tuple[Tensor, Tensor]: ...


@overload
def multiscale_roi_pool(
    inputs: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scales: Sequence[Scale] | Array,
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    return_argmax: bool,
) -> Tensor | tuple[Tensor, Tensor]: ...


@not_scriptable
def multiscale_roi_pool(
    inputs: Sequence[Tensor],
    boxes: Tensor | Sequence[Tensor],
    output_size: Size,
    spatial_scales: Sequence[Scale] | Array,
    *,
    canonical_scale: float = 224,
    canonical_level: int = 4,
    return_argmax: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Pools each region from the level of a feature pyramid that fits its size.

    Does for a pyramid what :func:`roi_pool` does for one map.

    The level is chosen as in Lin et al., Feature Pyramid Networks (2017),
    equation 1, one operation after the other as in
    :class:`torchvision.ops.MultiScaleRoIAlign`, for
    ``area = (x2 - x1) * (y2 - y1)``::

        floor(canonical_level + log2(sqrt(area) / canonical_scale) + 1e-6)

    ``inputs[0]`` is level ``-log2(spatial_scales[0])``, rounded, and every
    further map is one level more, whatever its scale; regions of lower levels
    are pooled from the first map, and of higher ones from the last.
    (torchvision gives zeros to the highest where a level is left out among the
    maps.) A region whose area is not greater than 0 is pooled from the first
    map.

    One operator does it all in one call, without synchronisation, whatever the
    levels of the regions. Where maps have a scale for each axis, each level is
    a call of :func:`roi_pool`'s operator, also without synchronisation: that
    takes several times as long.

    Args:
        inputs: feature maps of 1 to 8 levels, finest first, each of shape
            ``(N, C, H, W)`` with H and W of its own, as in :func:`roi_pool`.
            They have one dtype; the first one's memory format is that of the
            output.
        boxes: as in :func:`roi_pool`.
        output_size: as in :func:`roi_pool`.
        spatial_scales: feature cells per image pixel of each level,
            ``1 / stride``, or pairs ``(y, x)`` as in :func:`roi_pool`; finite
            and greater than 0, from fine to coarse. The geometric mean of the
            first pair decides the level of the first map. In
            ``torch.jit.trace``, numbers in tensors become constants, and
            ``torch.compile`` refuses them. Where there are pairs, it takes
            ``canonical_scale`` and ``canonical_level`` as constants alone.
        canonical_scale: size in image pixels, the square root of the area, of
            the regions that belong to ``canonical_level``; finite and greater
            than 0.
        canonical_level: the level of a region of ``canonical_scale``. Level
            ``l`` has ``spatial_scale = 2 ** -l``.
        return_argmax: also return where each value was found.

    Returns:
        ``output`` of shape ``(K, C, PH, PW)``, in the dtype of ``inputs`` and
        the memory format of the first. With ``return_argmax``, the tuple
        ``(output, argmax)`` as in :func:`roi_pool`, where ``argmax`` is an
        offset in the map of the region's level.

        Differentiable in all of ``inputs``, in reverse and forward mode, to any
        order, with gradients that have the same bits in every run.

    Raises:
        TypeError: an argument is of the wrong type, or a tensor of the wrong
            dtype.
        ValueError: as :func:`roi_pool`; also inputs that differ in N, C, dtype
            or device, less than 1 or more than 8 of them, another number of
            ``spatial_scales``, or such that do not go from fine to coarse.

    Example:
        >>> import torch, roipool
        >>> maps = [torch.rand(1, 16, 200, 336), torch.rand(1, 16, 100, 168)]
        >>> scales = [1 / 4, 1 / 8]
        >>> boxes = [torch.tensor([[32.0, 16, 90, 70], [10, 20, 1200, 780]])]
        >>> roipool.multiscale_roi_pool(maps, boxes, 7, scales).shape
        torch.Size([2, 16, 7, 7])
    """
    if not isinstance(inputs, (list, tuple)):
        raise TypeError(f"inputs must be a list of tensors (N, C, H, W), got {type(inputs).__name__}")
    tensors = (*inputs, *boxes) if isinstance(boxes, (list, tuple)) else (*inputs, boxes)
    if has_torch_function(tensors):
        if not torch.compiler.is_compiling():
            return call_subclasses(
                multiscale_roi_pool,
                tensors,
                inputs,
                boxes,
                output_size,
                spatial_scales,
                canonical_scale=canonical_scale,
                canonical_level=canonical_level,
                return_argmax=return_argmax,
            )
        inputs, boxes = view_for_compiler(inputs, boxes)
    for level, input in enumerate(inputs):
        check_is_feature_tensor(input, f"inputs[{level}]")
    check_num_levels("inputs", len(inputs))
    scales = parse_scales(spatial_scales)
    check_is_scale(canonical_scale, "canonical_scale")
    if not is_int(canonical_level):
        raise TypeError(f"canonical_level must be an int, got {type(canonical_level).__name__}")
    if not -(2**63) <= canonical_level < 2**63:
        raise ValueError(f"canonical_level must be an int of 64 bits, got {canonical_level}")
    pooled_height, pooled_width = parse_output_size(output_size)
    rois = convert_boxes_to_rois(boxes, inputs[0], "inputs[0]")
    if bad_boxes.is_detecting:
        bad_boxes.check_regions(rois, boxes, inputs[0])
    name = "multiscale_roi_pool_with_argmax" if return_argmax else "multiscale_roi_pool"
    pool = pool_pairs if tuple in map(type, scales) else call_operator
    return pool(name, list(inputs), rois, pooled_height, pooled_width, scales, canonical_scale, canonical_level)


def pool_pairs(
    name: str,
    inputs: list[Tensor],
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    scales: Sequence[Any],
    canonical_scale: float,
    canonical_level: int,
) -> Any:
    """Takes the place of an operator of pyramids where some maps have a scale (y, x) for each axis."""
    pairs = [scale if isinstance(scale, tuple) else (scale, scale) for scale in scales]
    # The numbers of pairs are checked already, and one of each stands for it here.
    pyramid = ([scale_y for scale_y, _ in pairs], canonical_scale)
    if is_captured():  # sizes are symbols, or tensors, which the operators of the levels check
        check_pyramid(*pyramid, "inputs", len(inputs))
    else:
        check_multiscale_roi_pool(inputs, rois, pooled_height, pooled_width, *pyramid, canonical_level)

    def pool(input: Tensor, rois: Tensor, scale: tuple[float, float]) -> Any:
        scaled = scale_rois(rois, *scale)
        return call_operator(name.removeprefix("multiscale_"), input, scaled, pooled_height, pooled_width, 1.0)

    return pool_level_by_level(pool, inputs, rois, pairs, canonical_scale, canonical_level)
