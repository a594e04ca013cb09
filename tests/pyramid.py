"""Makes the feature pyramid that tests pool from."""

import torch
from support import (
    contiguous,
    features,
    random_rois,
)

NAMES = ["0", "1", "2", "3"]
SCALES = [1 / 4, 1 / 8, 1 / 16, 1 / 32]
PYRAMID = (SCALES, 224.0, 4)
IMAGE = (256, 320)  # pixels


def maps_of(channels=3, dtype=torch.float32, layout=contiguous, batch_size=2, seed=0):
    sizes = [(int(IMAGE[0] * scale), int(IMAGE[1] * scale)) for scale in SCALES]
    return [layout(features((batch_size, channels, *size), dtype, seed + i)) for i, size in enumerate(sizes)]


def boxes_of(num_rois=40, wild=False, seed=0):
    """Makes boxes of such sizes that each level has some: canonical_scale 224 puts 40 px on the first level."""
    rois = random_rois(num_rois, 2, *IMAGE, seed, wild=wild)
    shrink = torch.tensor([1.0, 0.5, 0.25, 0.125]).repeat(num_rois)[:num_rois, None]
    rois[:, 3:] = rois[:, 1:3] + (rois[:, 3:] - rois[:, 1:3]) * shrink * 2
    return rois
