"""The operator as a module."""

from collections.abc import Sequence

from torch import Tensor, nn

from roipool.functional import roi_pool


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
