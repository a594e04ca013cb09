"""Exports the head of a detector, which pools regions from a feature pyramid, for the C++ program beside it.

    python examples/cpp/export_head.py head

writes the head as a package of AOTInductor and as a traced module, inputs of another number of regions than it was
exported with, and what Python computes from them.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn

import roipool

IMAGE = (256, 320)  # height and width in pixels
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32}
SCALES = [1 / stride for stride in STRIDES.values()]
CHANNELS = 16


class Head(nn.Module):
    """Pools regions to 7x7, and scores each as one of ten classes or background."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = roipool.MultiScaleRoIPool(list(STRIDES), output_size=7, scales=SCALES)
        self.classify = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * 49, 64), nn.ReLU(), nn.Linear(64, 11))

    def forward(self, p2: Tensor, p3: Tensor, p4: Tensor, p5: Tensor, boxes: Tensor) -> Tensor:
        features = dict(zip(STRIDES, [p2, p3, p4, p5], strict=True))
        return self.classify(self.pool(features, boxes, [IMAGE])).softmax(1)


def make_inputs(num_boxes: int) -> tuple[Tensor, ...]:
    """Makes the maps of two images, (2, C, H, W) each, and boxes (K, 5) of all sizes."""
    height, width = IMAGE
    maps = [torch.randn(2, CHANNELS, height // stride, width // stride) for stride in STRIDES.values()]
    corners = torch.rand(num_boxes, 2, 2).sort(1).values * torch.tensor([width, height])
    return *maps, torch.cat([torch.arange(num_boxes).view(-1, 1) % 2, corners.flatten(1)], 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)

    torch.manual_seed(0)
    head = Head().eval()
    example, inputs = make_inputs(100), make_inputs(60)
    with torch.no_grad():
        num_boxes = torch.export.Dim("num_boxes", max=10_000)
        exported = torch.export.export(head, example, dynamic_shapes=(None, None, None, None, {0: num_boxes}))
        package = torch._inductor.aoti_compile_and_package(exported, package_path=str(folder / "head.pt2"))
        traced = torch.jit.trace(head, example)
        traced.save(str(folder / "head_traced.pt"))
        *maps, boxes = inputs
        tensors = {
            "inputs": list(inputs),
            "pooled": roipool.multiscale_roi_pool(maps, boxes, 7, SCALES),
            "package": torch._inductor.aoti_load_package(package)(*inputs),
            "traced": traced(*inputs),
        }
    torch.save(tensors, folder / "tensors.pt")
    torch.testing.assert_close(tensors["package"], tensors["traced"])
    print(f"{folder}: head.pt2, head_traced.pt and tensors.pt")


if __name__ == "__main__":
    main()
