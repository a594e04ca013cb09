"""Exports :func:`roipool.roi_pool` to ONNX as the standard operator ``MaxRoiPool``.

    import roipool.onnx

    table = roipool.onnx.translation_table()
    program = torch.onnx.export(model, arguments, dynamo=True, custom_translation_table=table)

It needs ``onnxscript`` (``pip install 'roipool[onnx]'``).

``MaxRoiPool`` computes what roi_pool does on ordinary input, but says less:

- ``X`` and ``rois`` share a dtype, float16, float32 or float64 (which of them a runtime implements is its own affair;
  ONNX Runtime's CPU provider has float32). bfloat16 features are refused at export, and so are float64 boxes beside
  narrower features, whose coordinates would be rounded. Boxes of other dtypes are cast to that of the features. Beside
  float16 features that may round coordinates above 2048 px and fractions of pixels: export warns.
- ``spatial_scale`` is a float32. Export warns where float64 boxes have a scale that this rounds.
- A bad batch index, a NaN or infinite coordinate and a NaN feature give undefined results in ONNX. ONNX Runtime
  refuses a batch index out of range, skips NaN features, and gives the lowest number where a bin holds only -inf.
- There is no argmax and no gradient: ``return_argmax=True`` cannot be exported.
"""

import struct
import warnings
from collections.abc import Callable
from typing import Any

import torch


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Returns what to pass to :func:`torch.onnx.export` as ``custom_translation_table``.

    Raises:
        ImportError: onnxscript is not installed.
    """
    try:
        from onnxscript import opset18 as op
    except ImportError as error:
        raise ImportError(f"roipool.onnx needs onnxscript ({error}): pip install 'roipool[onnx]'") from error

    def max_roi_pool(input: Any, rois: Any, pooled_height: int, pooled_width: int, spatial_scale: float) -> Any:
        features, boxes = str(input.dtype), str(rois.dtype)
        if features not in ("FLOAT16", "FLOAT", "DOUBLE"):
            raise ValueError(f"ONNX's MaxRoiPool takes float16, float32 or float64 features, got {features}")
        if boxes == "DOUBLE" and features != "DOUBLE":
            raise ValueError(
                f"ONNX's MaxRoiPool takes boxes in the dtype of the features, which would round float64 to {features}: "
                "make them float32 in the model"
            )
        if features == "FLOAT16" and boxes != "FLOAT16":
            warnings.warn(
                "ONNX's MaxRoiPool takes boxes in the dtype of the features, float16: coordinates above 2048 and "
                "fractions will be rounded",
                stacklevel=2,
            )
        if boxes == "DOUBLE" and struct.unpack("f", struct.pack("f", spatial_scale))[0] != spatial_scale:
            warnings.warn(f"ONNX holds spatial_scale as a float32, which rounds {spatial_scale}", stacklevel=2)
        same = rois if boxes == features else op.CastLike(rois, input)
        return op.MaxRoiPool(input, same, pooled_shape=[pooled_height, pooled_width], spatial_scale=spatial_scale)

    def no_argmax(*_: Any) -> Any:
        raise ValueError("ONNX has no operator for return_argmax=True: leave it out of the model that is exported")

    return {
        torch.ops.roipool.roi_pool.default: max_roi_pool,
        torch.ops.roipool.roi_pool_with_argmax.default: no_argmax,
    }
