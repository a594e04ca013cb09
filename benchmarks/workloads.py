"""Makes the problems that the benchmarks time: shapes of real detectors, boxes drawn at random from a fixed seed."""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor


@dataclass(eq=False)  # so that a part can be a key: it is equal to itself only
class Part:
    """Holds what one call pools: the maps of one level, and the regions on them."""

    input: Tensor
    rois: Tensor  # float32, whatever the dtype of the input
    spatial_scale: float


@dataclass(frozen=True)
class Workload:
    """Describes a problem: images, the maps of each level, regions and bins."""

    name: str
    batch_size: int
    channels: int
    strides: tuple[int, ...]  # one for each level
    num_regions: int  # on all images and levels
    output_size: tuple[int, int]
    box_sides: tuple[int, int] = (16, 600)  # shortest and longest, in image pixels
    image_size: tuple[int, int] = (800, 1344)
    map_size: tuple[int, int] | None = field(default=None)  # if it is not image_size / stride
    for_gpus: bool = False  # because it is too large for a CPU
    side_distribution: Literal["uniform", "log_uniform"] = "uniform"  # log_uniform: many small boxes, as from detectors

    def make(self, dtype: torch.dtype, layout: torch.memory_format, device: str = "cpu") -> list[Part]:
        generator = torch.Generator().manual_seed(0)
        rois = self._draw_rois(generator)
        levels = self._choose_levels(rois)
        parts = []
        for level, stride in enumerate(self.strides):
            size = self.map_size or tuple(side // stride for side in self.image_size)
            input = torch.randn(self.batch_size, self.channels, *size, generator=generator)
            input = input.to(device, dtype, memory_format=layout)
            parts.append(Part(input, rois[levels == level].to(device), 1 / stride))
        return parts

    def _draw_rois(self, generator: torch.Generator) -> Tensor:
        height, width = self.image_size
        shortest, longest = self.box_sides
        fractions = torch.rand(self.num_regions, 2, generator=generator)
        if self.side_distribution == "uniform":
            sides = shortest + fractions * (longest - shortest)
        else:
            sides = shortest * (longest / shortest) ** fractions
        sides = torch.minimum(sides, torch.tensor([width, height]))
        corner = torch.rand(self.num_regions, 2, generator=generator) * (torch.tensor([width, height]) - sides)
        image = torch.randint(self.batch_size, (self.num_regions, 1), generator=generator)
        return torch.cat([image, corner, corner + sides - 1], 1)

    def _choose_levels(self, rois: Tensor) -> Tensor:
        """Returns the level of each region, by the rule of Lin et al., Feature Pyramid Networks, 2017."""
        if len(self.strides) == 1:
            return torch.zeros(len(rois))
        assert all(b == 2 * a for a, b in pairwise(self.strides))
        side = ((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).sqrt()
        levels = torch.floor(4 + torch.log2(side / 224)) - math.log2(self.strides[0])
        return levels.clamp(0, len(self.strides) - 1)


WORKLOADS = {
    workload.name: workload
    for workload in [
        Workload("fpn", 2, 256, (16,), 1000, (7, 7)),
        Workload("proposals", 2, 256, (16,), 1000, (7, 7), side_distribution="log_uniform"),
        Workload("vgg", 1, 512, (16,), 300, (7, 7), map_size=(38, 63), image_size=(608, 1008)),
        Workload("detections", 1, 256, (16,), 8, (14, 14)),
        Workload("few", 1, 512, (16,), 32, (7, 7), map_size=(38, 63), image_size=(608, 1008)),
        Workload("dense", 4, 1024, (16,), 512, (14, 14)),
        Workload("pixels", 1, 3, (1,), 200, (64, 64)),
        Workload("head", 2, 256, (4, 8, 16, 32), 1024, (7, 7)),
        Workload("pyramid_proposals", 2, 256, (4, 8, 16, 32), 1024, (7, 7), (8, 800), side_distribution="log_uniform"),
        Workload("huge", 1, 64, (2,), 2000, (7, 7)),
        Workload("c5", 2, 2048, (32,), 1000, (7, 7), map_size=(25, 42), for_gpus=True),
        Workload("large", 16, 256, (4,), 16000, (7, 7), for_gpus=True),
    ]
}
