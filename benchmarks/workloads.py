"""The problems that the benchmarks time: shapes from real detectors, boxes drawn at random from a fixed seed."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Workload:
    name: str
    input_shape: tuple[int, int, int, int]  # N, C, H, W
    num_regions: int  # over all images
    output_size: tuple[int, int]
    spatial_scale: float
    box_sides: tuple[int, int]  # shortest and longest, in image pixels

    def make(self, dtype: torch.dtype, layout: torch.memory_format) -> tuple[Tensor, Tensor]:
        """input and rois; the rois are float32 whatever the dtype."""
        generator = torch.Generator().manual_seed(0)
        num_images, _, height, width = self.input_shape
        image_size = torch.tensor([width, height]) / self.spatial_scale
        input = torch.randn(self.input_shape, generator=generator).to(dtype, memory_format=layout)
        shortest, longest = self.box_sides
        sides = shortest + torch.rand(self.num_regions, 2, generator=generator) * (longest - shortest)
        sides = torch.minimum(sides, image_size)
        corner = torch.rand(self.num_regions, 2, generator=generator) * (image_size - sides)
        image = torch.randint(num_images, (self.num_regions, 1), generator=generator)
        return input, torch.cat([image, corner, corner + sides - 1], 1)


WORKLOADS = {
    workload.name: workload
    for workload in [
        Workload("fpn", (2, 256, 50, 84), 1000, (7, 7), 1 / 16, (16, 600)),
        Workload("vgg", (1, 512, 38, 63), 300, (7, 7), 1 / 16, (16, 600)),
    ]
}
