"""Exports models that pool regions to ONNX, as its operator ``MaxRoiPool``.

Models need nothing of this module::

    torch.onnx.export(model, arguments, "model.onnx")

The default exporter of PyTorch needs ``onnxscript``; the one of traces,
``dynamo=False``, works as well. A program that ``torch.export`` made goes through ::

    roipool.onnx.export(program, arguments, "model.onnx")

which takes models, too.

A pyramid, :func:`roipool.multiscale_roi_pool`, becomes one ``MaxRoiPool`` for
each level, which pools the regions of that level. Their areas are compared with
the bounds that the operator has, so the levels are the same to the bit.

``MaxRoiPool`` computes what roi_pool does on ordinary input: on valid float32
input, ONNX Runtime gives the bits of roipool. It covers less: bfloat16, argmax,
gradients and bad data are left out. Export refuses what it cannot say, and
warns of what it rounds; docs/guides/onnx.md has the list.
"""

import struct
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.onnx.symbolic_helper import parse_args

from roipool._ops.checks import check_multiscale_roi_pool, check_roi_pool, name_dtype
from roipool._ops.levels import find_levels
from roipool._ops.load import ops
from roipool._ops.torch_private import get_jit_trace

__all__ = ["export"]


def export(model: Any, *arguments: Any, **keywords: Any) -> Any:
    """Does what :func:`torch.onnx.export` does, and also takes a program of
    ``torch.export`` that pools regions.

    Args:
        model: a module, or a :class:`torch.export.ExportedProgram`.
        arguments: passed on to :func:`torch.onnx.export`: the example inputs,
            the path, and so on.
        keywords: passed on as well.

    Returns:
        What :func:`torch.onnx.export` returns: by default a
        :class:`torch.onnx.ONNXProgram`.

    Raises:
        ValueError: ONNX cannot say what the model does with regions (for
            modules, within the exporter's own error).
        ModuleNotFoundError: onnxscript is not installed, and ``dynamo`` is not
            False.
    """
    if isinstance(model, torch.export.ExportedProgram):
        model = model.run_decompositions({getattr(ops, name).default: RECORDERS[name] for name in RECORDERS})
    return torch.onnx.export(model, *arguments, **keywords)


def check_dtypes(features: torch.dtype, boxes: torch.dtype, spatial_scale: float) -> None:
    """Refuses what MaxRoiPool does not take, and warns of what it rounds."""
    if features == torch.bfloat16:
        raise ValueError(f"ONNX's MaxRoiPool takes float16, float32 or float64 features, got {name_dtype(features)}")
    if boxes == torch.float64 != features:
        raise ValueError(
            "ONNX's MaxRoiPool takes boxes in the dtype of the features, which would round float64 to "
            f"{name_dtype(features)}: make them float32 in the model"
        )
    if features == torch.float16 != boxes:
        warnings.warn(
            "ONNX's MaxRoiPool takes boxes in the dtype of the features, float16: coordinates above 2048 and "
            "fractions will be rounded",
            stacklevel=2,
        )
    if boxes == torch.float64 and struct.unpack("f", struct.pack("f", spatial_scale))[0] != spatial_scale:
        warnings.warn(f"ONNX holds spatial_scale as a float32, which rounds {spatial_scale}", stacklevel=2)


# ---- What a graph holds instead of the operators.


def record_roi_pool(input: Tensor, rois: Tensor, pooled_height: int, pooled_width: int, spatial_scale: float) -> Tensor:
    check_dtypes(input.dtype, rois.dtype, spatial_scale)
    rois_as_input = rois.to(input.dtype)
    if get_jit_trace() is not None:  # in the exporter of traces, for which make_roi_pool() is registered
        pooled: Tensor = ops.roi_pool.default(input, rois_as_input, pooled_height, pooled_width, spatial_scale)
        return pooled
    check_roi_pool(input, rois, pooled_height, pooled_width, spatial_scale)
    return torch.onnx.ops.symbolic(
        "MaxRoiPool",
        (input, rois_as_input),
        {"pooled_shape": [pooled_height, pooled_width], "spatial_scale": float(spatial_scale)},
        dtype=input.dtype,
        shape=(rois.shape[0], input.shape[1], pooled_height, pooled_width),
    )


def record_multiscale_roi_pool(
    inputs: list[Tensor],
    rois: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scales: list[float],
    canonical_scale: float,
    canonical_level: int,
) -> Tensor:
    """Pools the regions of each level by themselves, then puts the results into the order of the regions.

    Runtimes are faster with this than with pool_level_by_level(), in which each level pools all regions.
    """
    pooled_shape, canonical = (pooled_height, pooled_width), (canonical_scale, canonical_level)
    if get_jit_trace() is None:
        check_multiscale_roi_pool(inputs, rois, *pooled_shape, spatial_scales, *canonical)
    levels = find_levels(rois, (spatial_scales[0], spatial_scales[0]), len(inputs), *canonical)
    regions = [torch.where(levels == level)[0] for level in range(len(inputs))]
    pooled = torch.cat(
        [
            record_roi_pool(input, rois[regions_of_level], *pooled_shape, scale)
            for input, regions_of_level, scale in zip(inputs, regions, spatial_scales, strict=True)
        ]
    )
    places = torch.zeros_like(levels, dtype=torch.int64)  # of the regions within pooled
    return pooled[places.index_put((torch.cat(regions),), torch.arange(pooled.shape[0], device=rois.device))]


def refuse_argmax(*_: Any) -> NoReturn:
    raise ValueError("ONNX has no operator for return_argmax=True: leave it out of the model (docs/guides/onnx.md)")


# What takes the place of each operator while a model is exported.
RECORDERS: dict[str, Callable[..., Any]] = {
    "roi_pool": record_roi_pool,
    "roi_pool_with_argmax": refuse_argmax,
    "multiscale_roi_pool": record_multiscale_roi_pool,
    "multiscale_roi_pool_with_argmax": refuse_argmax,
}


# ---- The exporter of traces, torch.onnx.export(..., dynamo=False): what it puts in the place of the operators.

OLDEST_OPSET = 9  # that this exporter writes


@parse_args("v", "v", "i", "i", "f")
def make_roi_pool(
    graph: Any, input: Any, rois: Any, pooled_height: int, pooled_width: int, spatial_scale: float
) -> Any:
    if rois.type().dtype() != input.type().dtype():  # in a model that calls the operator itself
        raise ValueError(
            "ONNX's MaxRoiPool takes boxes in the dtype of the features, "
            f"{name_dtype(input.type().dtype())}, got {name_dtype(rois.type().dtype())}"
        )
    pooled_shape = [pooled_height, pooled_width]
    return graph.op("MaxRoiPool", input, rois, pooled_shape_i=pooled_shape, spatial_scale_f=spatial_scale)


def refuse_traced_pyramid(*_: Any) -> NoReturn:
    raise ValueError(
        "torch.onnx.export(dynamo=False) cannot take the operator multiscale_roi_pool from a trace that is made "
        "already: give it the module"
    )


def register() -> None:
    for name, make in {"roi_pool": make_roi_pool, "multiscale_roi_pool": refuse_traced_pyramid}.items():
        torch.onnx.register_custom_op_symbolic(f"roipool::{name}", make, OLDEST_OPSET)  # type: ignore[attr-defined]


register()
