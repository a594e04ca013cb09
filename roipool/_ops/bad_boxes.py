"""Finds bad boxes where users ask for it: regions that would be pooled to
zeros, or from a single cell, in silence."""

import os
from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from roipool._ops.arguments import lengths_of
from roipool._ops.checks import has_memory
from roipool._ops.torch_private import are_transforms_active, is_captured

# Whether boxes are looked at. It is read at each call.
is_detecting = os.environ.get("ROIPOOL_DETECT_BAD_BOXES", "0").lower() not in ("0", "", "false", "no", "off")


class set_detect_bad_boxes:
    """Turns the search for bad boxes on or off: a function and context manager.

    While it is on, :func:`roipool.roi_pool`,
    :func:`roipool.multiscale_roi_pool`, their modules and
    :func:`roipool.mxnet.roi_pooling` raise a ValueError that names the first
    region

    - whose ``batch_index`` is outside the batch: it would be pooled to zeros,
      as under :class:`torch.nn.DataParallel`, which hands the second replica
      boxes ``(K, 5)`` with indices of the whole batch;
    - that has a coordinate which is not finite: it would be pooled to zeros as
      well;
    - with ``x2 < x1`` or ``y2 < y1``: it would be pooled as if it were a single
      cell wide or high.

    The environment variable ``ROIPOOL_DETECT_BAD_BOXES=1`` turns it on from the
    start. It is for debugging, like :class:`torch.autograd.set_detect_anomaly`:
    each call waits for the device. While it is off, it costs nothing.

    Boxes are not looked at where they have no values yet, or must not be waited
    for: under ``torch.compile``, in export and in ``torch.jit.trace``, on meta,
    fake and distributed tensors, within the transforms of ``torch.func``, and
    while a CUDA graph is captured. Nor does it see calls of the operators
    ``torch.ops.roipool.*`` themselves, or of torchvision's under
    :func:`roipool.torchvision.accelerate`.

    Args:
        mode: whether to look for bad boxes, in all threads. As a context
            manager, it restores what was set before.

    Raises:
        TypeError: ``mode`` is no bool.

    Example:
        >>> import torch, roipool
        >>> boxes = [torch.tensor([[0.0, 0, 3, 3], [5, 1, 4, 3]])]
        >>> with roipool.set_detect_bad_boxes(True):
        ...     roipool.roi_pool(torch.rand(1, 3, 8, 8), boxes, output_size=2)
        Traceback (most recent call last):
            ...
        ValueError: boxes[0][1] must have x1 <= x2 and y1 <= y2, got [5, 1, 4, 3]
    """

    def __init__(self, mode: bool) -> None:
        global is_detecting
        if not isinstance(mode, bool):
            raise TypeError(f"mode must be a bool, got {type(mode).__name__}")
        self.previous = is_detecting
        is_detecting = mode

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        global is_detecting
        is_detecting = self.previous


def has_values(rois: Tensor) -> bool:
    """Returns whether the values of a tensor are there, and can be waited for."""
    return not (
        is_captured()
        or are_transforms_active()
        or not has_memory(rois)
        or (rois.is_cuda and torch.cuda.is_current_stream_capturing())
    )


def check_regions(rois: Tensor, boxes: Any, input: Tensor) -> None:
    """Refuses bad regions.

    Args:
        rois: regions (K, 5).
        boxes: what users gave for them.
        input: feature maps (N, C, H, W).
    """
    if input.ndim != 4 or not has_values(rois):  # the operator refuses another rank
        return
    num_images = input.shape[0]
    wide = rois.detach().double()
    index, x1, y1, x2, y2 = wide.unbind(1)
    indices = f"with batch_index 0 to {num_images - 1}" if num_images else "of which there are none"
    faults = {
        f"be of an image, {indices}": ~((index > -1) & (index < num_images)),
        "have finite coordinates": ~wide[:, 1:].isfinite().all(1),
        "have x1 <= x2 and y1 <= y2": (x2 < x1) | (y2 < y1),
    }
    is_bad = torch.stack(list(faults.values())).any(0)
    if is_bad.any():
        region = int(is_bad.int().argmax())
        expected = next(expected for expected, is_fault in faults.items() if is_fault[region])
        refuse_region(region, wide[region].tolist(), expected, lengths_of(boxes))


def refuse_region(region: int, row: Sequence[float], expected: str, lengths: Sequence[int] | None) -> NoReturn:
    """Raises an error that names a region by its place in boxes."""
    name = f"boxes[{region}]"
    if lengths is not None:
        image = 0
        while region >= lengths[image]:
            region -= lengths[image]
            image += 1
        name, row = f"boxes[{image}][{region}]", row[1:]
    raise ValueError(f"{name} must {expected}, got [{', '.join(f'{value:g}' for value in row)}]")
