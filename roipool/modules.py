"""Wraps the functions in modules."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch.fx
from torch import Tensor, nn

from roipool._ops.arguments import Array, Scale, Size, parse_output_size, parse_scales, unwrap_array
from roipool._ops.checks import check_is_feature_tensor, check_scale, is_real
from roipool._ops.script import not_scriptable
from roipool.functional import multiscale_roi_pool, roi_pool


@not_scriptable
class RoIPool(nn.Module):
    """:func:`roipool.roi_pool` as a layer.

    A drop-in for :class:`torchvision.ops.RoIPool`. It has no parameters.

    Args:
        output_size: bins per region, ``PH = PW`` or ``(PH, PW)``.
        spatial_scale: feature cells per image pixel, ``1 / stride``, of both
            axes or ``(y, x)``.

    Raises:
        TypeError, ValueError: ``output_size`` is not one or two ints. (The
            scale is checked when the layer is called.)

    Example:
        >>> import torch, roipool
        >>> pool = roipool.RoIPool(output_size=7, spatial_scale=1 / 16)
        >>> boxes = [torch.tensor([[32.0, 16, 400, 310]]), torch.tensor([[0.0, 0, 1343, 799]])]
        >>> pool(torch.rand(2, 256, 50, 84), boxes).shape
        torch.Size([2, 256, 7, 7])
    """

    # Types in quotes are shown by help() as they stand. Those of forward() have none: torch.fx could not pickle traces.
    def __init__(self, output_size: "Size", spatial_scale: "Scale" = 1.0) -> None:
        super().__init__()
        self.output_size = parse_output_size(output_size)
        self.spatial_scale = spatial_scale

    def forward(
        self,
        input: Tensor,
        boxes: Tensor | Sequence[Tensor] | None = None,
        rois: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Calls :func:`roipool.roi_pool` with ``input`` and ``boxes``.

        Args:
            input: feature maps ``(N, C, H, W)``.
            boxes: regions ``(K, 5)``, rows ``[batch_index, x1, y1, x2, y2]``,
                or a list of N tensors ``(L_i, 4)``.
            rois: torchvision's name for ``boxes``; exactly one of the two is
                given.

        Returns:
            ``(K, C, PH, PW)`` in the dtype and memory format of ``input``.

        Raises:
            TypeError, ValueError: as :func:`roipool.roi_pool`; also for both or
                neither of ``boxes`` and ``rois``.
        """
        if boxes is None or rois is not None:
            boxes = _choose_boxes(boxes, rois)
        return roi_pool(input, boxes, self.output_size, self.spatial_scale)

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


@torch.fx.wrap  # a trace of the layer by itself holds this call, since both are proxies there
def _choose_boxes(boxes: Any, rois: Any) -> Any:
    """Returns the one that is given, under either name."""
    if (boxes is None) == (rois is None):
        raise TypeError("RoIPool takes the regions either as boxes or, by torchvision's name, as rois")
    return boxes if rois is None else rois


@not_scriptable
class MultiScaleRoIPool(nn.Module):
    """:func:`roipool.multiscale_roi_pool` as a layer.

    The max-pooling counterpart of :class:`torchvision.ops.MultiScaleRoIAlign`,
    in whose place it can be put::

        model = torchvision.models.detection.fasterrcnn_resnet50_fpn(...)
        pool = roipool.MultiScaleRoIPool(["0", "1", "2", "3"], output_size=7)
        model.roi_heads.box_roi_pool = pool

    It has no parameters and no state. Give it the scales of the maps where they
    are known: else they are inferred in each call, from the sizes of maps and
    images. The scale of a map is then the power of 2 that is nearest to the
    ratio of map to images, along the axis in which the images are longer.
    (torchvision goes by the height, and keeps the scales of its first call.)
    Images are padded to multiples of 32 pixels in most models, so small ones
    can mislead: of 40 rows, padded to 64, a map of stride 4 has 16, which is
    nearer to 1/2 than to 1/4. If that is so of the longer side but not of the
    shorter, the shorter one decides. If it is so of both, a warning says that
    ``scales`` should be given. Maps whose strides differ by axis need
    ``scales``.

    Args:
        featmap_names: the maps of ``features`` to pool from, finest first;
            others are ignored.
        output_size: bins per region, ``PH = PW`` or ``(PH, PW)``.
        canonical_scale: size in image pixels, the square root of the area, of
            the regions that belong to ``canonical_level``.
        canonical_level: the level of a region of ``canonical_scale``. Level
            ``l`` has 1 cell per ``2 ** l`` pixels.
        scales: feature cells per image pixel, ``1 / stride``, of each map, each
            of both axes or ``(y, x)``. The attribute of the same name may be
            set later.

    Raises:
        TypeError, ValueError: ``featmap_names`` is no list of str,
            ``output_size`` is not one or two ints, or ``scales`` does not hold
            a scale for each map, from fine to coarse.

    Example:
        >>> import torch, roipool
        >>> pool = roipool.MultiScaleRoIPool(["0", "1"], output_size=7)
        >>> maps = [torch.rand(1, 16, 200, 336), torch.rand(1, 16, 100, 168)]
        >>> boxes = [torch.tensor([[32.0, 16, 90, 70], [10, 20, 1200, 780]])]
        >>> pool(dict(zip("01", maps)), boxes, image_shapes=[(800, 1344)]).shape
        torch.Size([2, 16, 7, 7])
    """

    def __init__(
        self,
        featmap_names: Sequence[str],
        output_size: "Size",
        *,
        canonical_scale: float = 224,
        canonical_level: int = 4,
        scales: "Sequence[Scale] | Array | None" = None,
    ) -> None:
        super().__init__()
        if not isinstance(featmap_names, (list, tuple)) or not all(isinstance(name, str) for name in featmap_names):
            raise TypeError(f"featmap_names must be a list of str, got {featmap_names!r}")
        if scales is not None:
            scales = parse_scales(scales, "scales")
            if len(scales) != len(featmap_names):
                raise ValueError(
                    f"scales must hold a scale for each of featmap_names, {len(featmap_names)}, got {len(scales)}"
                )
            for level, scale in enumerate(scales):
                if isinstance(scale, float):  # pairs are checked already
                    check_scale(f"scales[{level}]", scale)
        self.featmap_names = list(featmap_names)
        self.output_size = parse_output_size(output_size)
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.scales = scales

    def forward(
        self,
        features: Mapping[str, Tensor],
        boxes: Tensor | Sequence[Tensor],
        image_shapes: Sequence[Sequence[int] | Array] | Array | None = None,
    ) -> Tensor:
        """Pools each box from one of the maps.

        Args:
            features: feature maps by name, each ``(N, C, H, W)``. Maps in other
                dtypes than the first, as autocast may leave them, are cast to
                that.
            boxes: N tensors ``(L_i, 4)`` with rows ``[x1, y1, x2, y2]`` in
                image pixels, or one tensor ``(K, 5)``.
            image_shapes: heights and widths ``(H, W)`` of the images in pixels,
                without padding. Not needed where the layer has the scales.

        Returns:
            ``(K, C, PH, PW)``, the boxes of the first image first.

        Raises:
            TypeError, ValueError: as :func:`roipool.multiscale_roi_pool`; also
                if ``features`` lacks one of the maps, or ``image_shapes`` is
                not a list of heights and widths.
        """
        canonical = (self.canonical_scale, self.canonical_level)
        return _pool_named(features, boxes, image_shapes, self.featmap_names, self.output_size, self.scales, canonical)

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"canonical_scale={self.canonical_scale}, canonical_level={self.canonical_level}, scales={self.scales}"
        )


@torch.fx.wrap  # a trace holds this call, since torch.fx cannot look into a dictionary of its proxies
def _pool_named(
    features: Mapping[str, Tensor],
    boxes: Tensor | Sequence[Tensor],
    image_shapes: Any,
    featmap_names: list[str],
    output_size: tuple[int, int],
    scales: Sequence[Scale] | None,
    canonical: tuple[float, int],
) -> Tensor:
    if not isinstance(features, Mapping):
        raise TypeError(f"features must be a dictionary of tensors (N, C, H, W), got {type(features).__name__}")
    maps: list[Tensor] = []
    for name in featmap_names:
        if name not in features:
            raise ValueError(
                f"features must have all maps of featmap_names, {featmap_names}, got {list(features)}: name those that "
                "there are (torchvision skips the others: docs/guides/pyramids.md)"
            )
        check_is_feature_tensor(features[name], f"features[{name!r}]")
        maps.append(features[name].to(maps[0].dtype) if maps else features[name])
    if scales is None:
        scales = infer_scales(maps, image_shapes)
    canonical_scale, canonical_level = canonical
    return multiscale_roi_pool(
        maps, boxes, output_size, scales, canonical_scale=canonical_scale, canonical_level=canonical_level
    )


def infer_scales(maps: Sequence[Tensor], image_shapes: Any) -> list[float]:
    """Returns the scale of each map, inferred from a side of the maps and images."""
    shapes = list_shapes(image_shapes)
    if len(shapes) == 0 or not all(map(is_shape, shapes)):
        raise ValueError(f"image_shapes must be a list with the (height, width) of each image, got {image_shapes!r}")
    height = max(shape[0] for shape in shapes)
    width = max(shape[1] for shape in shapes)
    by_height, by_width = (
        [nearest_power_of_2(map.shape[axis] / side) if map.ndim == 4 else 1.0 for map in maps]
        for axis, side in ((2, height), (3, width))
    )
    if is_ambiguous(height) and is_ambiguous(width) and not torch.compiler.is_compiling():  # which cannot warn
        warnings.warn(
            f"the scales of maps cannot be told from images of {height} x {width}, which may have been padded: "
            "give MultiScaleRoIPool the argument scales (docs/guides/pyramids.md)",
            stacklevel=2,
        )
    if by_height == by_width:  # as in most cases, in which a compiled model need not know which side is longer
        return by_height
    if is_ambiguous(height) != is_ambiguous(width):
        return by_width if is_ambiguous(height) else by_height
    return by_width if width > height else by_height


def list_shapes(image_shapes: Any) -> list[Any]:
    """Returns image_shapes as a list of lists or tuples, which may be a tensor, or hold tensors or arrays."""
    shapes = unwrap_array(image_shapes)
    return list(map(unwrap_array, shapes)) if isinstance(shapes, (list, tuple)) else []


def is_shape(shape: object) -> bool:
    """Returns whether a value is a height and a width; in torch.jit.trace, these are tensors."""
    return (
        isinstance(shape, (list, tuple))
        and len(shape) == 2
        and all((is_real(side) or isinstance(side, Tensor)) and side > 0 for side in shape)
    )


def is_ambiguous(image_side: int) -> bool:
    """Returns whether padding to a multiple of 32 would change the scale that is inferred."""
    padded = -(-image_side // 32) * 32
    return padded / image_side >= 2**0.5


def nearest_power_of_2(ratio: float) -> float:
    """Returns the power of 2 that is nearest to a ratio in its logarithm, and 1 for a ratio of 0.

    Under the compiler it only compares, since torch.export makes a constant of what a function of math is given.
    """
    if not torch.compiler.is_compiling():
        mantissa, exponent = math.frexp(float(ratio))  # of a tensor in torch.jit.trace, where it becomes a constant
        return math.ldexp(1.0, exponent if mantissa >= 0.5**0.5 else exponent - 1) if ratio else 1.0
    exponent = 0
    while 0 < ratio < 2.0 ** (exponent - 0.5):
        exponent -= 1
    while ratio >= 2.0 ** (exponent + 0.5):
        exponent += 1
    return 2.0**exponent
