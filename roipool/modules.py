"""The operator as modules."""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from roipool.functional import multiscale_roi_pool, pair, roi_pool


class RoIPool(nn.Module):
    """:func:`roipool.roi_pool` as a layer; a drop-in for :class:`torchvision.ops.RoIPool`. It has no parameters.

    Args:
        output_size: bins per region, ``PH = PW`` or ``(PH, PW)``.
        spatial_scale: feature cells per image pixel, ``1 / stride``.
    """

    def __init__(self, output_size: int | Sequence[int], spatial_scale: float = 1.0) -> None:
        super().__init__()
        self.output_size = output_size
        self.spatial_scale = spatial_scale

    def forward(
        self,
        input: Tensor,
        boxes: Tensor | Sequence[Tensor] | None = None,
        *,
        rois: Tensor | Sequence[Tensor] | None = None,
    ) -> Tensor:
        """:func:`roipool.roi_pool` of ``input`` and ``boxes``; ``rois`` is torchvision's name for ``boxes``."""
        if (boxes is None) == (rois is None):
            raise TypeError("RoIPool takes the regions either as boxes or, by torchvision's name, as rois")
        return roi_pool(input, boxes if rois is None else rois, self.output_size, self.spatial_scale)  # type: ignore[arg-type]

    def extra_repr(self) -> str:
        return f"output_size={self.output_size}, spatial_scale={self.spatial_scale}"


class MultiScaleRoIPool(nn.Module):
    """:func:`roipool.multiscale_roi_pool` as a layer: the max-pooling counterpart of
    :class:`torchvision.ops.MultiScaleRoIAlign`, in whose place it can be put::

        model = torchvision.models.detection.fasterrcnn_resnet50_fpn(...)
        model.roi_heads.box_roi_pool = roipool.MultiScaleRoIPool(["0", "1", "2", "3"], output_size=7)

    It has no parameters, and no state: in each call, the scale of a map is inferred as the power of 2 that is nearest
    to its height over that of the tallest image. Set ``scales`` to the scales of the maps where they are known, and
    nothing is inferred.

    Args:
        featmap_names: the maps of ``features`` to pool from; others are ignored.
        output_size: bins per region, ``PH = PW`` or ``(PH, PW)``.
        canonical_scale: size in image pixels, the square root of the area, of the regions that belong to
            ``canonical_level``.
        canonical_level: the level of a region of ``canonical_scale``. Level ``l`` has 1 cell per ``2 ** l`` pixels.
    """

    scales: Sequence[float] | None

    def __init__(
        self,
        featmap_names: Iterable[str],
        output_size: int | Sequence[int],
        *,
        canonical_scale: float = 224,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.featmap_names = list(featmap_names)
        self.output_size = pair(output_size)
        self.canonical_scale = canonical_scale
        self.canonical_level = canonical_level
        self.scales = None

    def forward(
        self,
        features: Mapping[str, Tensor],
        boxes: Tensor | Sequence[Tensor],
        image_shapes: Sequence[tuple[int, int]],
    ) -> Tensor:
        """Pools each box from one of the maps.

        Args:
            features: feature maps by name, finest first, each ``(N, C, H, W)``. Maps in other dtypes than the first, as
                autocast may leave them, are cast to that.
            boxes: N tensors ``(L_i, 4)`` with rows ``[x1, y1, x2, y2]`` in image pixels, or one tensor ``(K, 5)``.
            image_shapes: heights and widths ``(H, W)`` of the images in pixels, without padding.

        Returns:
            ``(K, C, PH, PW)``, the boxes of the first image first.

        Raises:
            TypeError, ValueError: as :func:`roipool.multiscale_roi_pool`; also if ``features`` has none of the maps, or
                ``image_shapes`` is empty.
        """
        maps = [map for name, map in features.items() if name in self.featmap_names]
        if not maps:
            raise ValueError(f"features must have maps named in {self.featmap_names}, got {list(features)}")
        maps = [map.to(maps[0].dtype) for map in maps]
        scales = self.infer_scales(maps, image_shapes) if self.scales is None else self.scales
        return multiscale_roi_pool(
            maps,
            boxes,
            self.output_size,
            scales,
            canonical_scale=self.canonical_scale,
            canonical_level=self.canonical_level,
        )

    @staticmethod
    def infer_scales(maps: Sequence[Tensor], image_shapes: Sequence[tuple[int, int]]) -> list[float]:
        if len(image_shapes) == 0:
            raise ValueError("image_shapes must hold the (height, width) of each image, got none")
        image_height = max(height for height, _ in image_shapes)
        return [2.0 ** round(math.log2(map.shape[-2] / image_height)) for map in maps]

    def extra_repr(self) -> str:
        return (
            f"featmap_names={self.featmap_names}, output_size={self.output_size}, "
            f"canonical_scale={self.canonical_scale}, canonical_level={self.canonical_level}"
        )
