"""Lets sharded tensors through :func:`roipool.roi_pool`, once it is imported.

Importing this module registers how :class:`torch.distributed.tensor.DTensor` is
pooled::

    import roipool.distributed

Features that are sharded by channels (``Shard(1)``), or rois ``(K, 5)`` that
are sharded by rows (``Shard(0)``), are pooled without communication. The
gradient of the features is sharded as they are, or ``Partial()`` for sharded
rois: it becomes the sum over all shards once it is needed.

DTensor first brings other placements to one of these. Each shard has the bits
that it has without sharding, except in a ``Partial()`` gradient, whose parts
the process group adds up in an order of its own.

The API that this rests on,
:func:`torch.distributed.tensor.experimental.register_sharding`, is experimental
in PyTorch. No other part of roipool depends on it.
"""

from typing import Any

import torch
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.distributed.tensor.experimental import register_sharding

ops = torch.ops.roipool

# The placement of each output, or of each argument: None where that is no tensor.
Placements = list[Any]
Rule = tuple[Placements, Placements]


@register_sharding(ops.roi_pool.default)
def _roi_pool(*_: Any) -> list[Rule]:
    return _forward_rules(num_outputs=1)


@register_sharding(ops.roi_pool_with_argmax.default)
def _roi_pool_with_argmax(*_: Any) -> list[Rule]:
    return _forward_rules(num_outputs=2)


def _forward_rules(num_outputs: int) -> list[Rule]:
    sizes_and_scale = [None, None, None]
    return [
        ([Replicate()] * num_outputs, [Replicate(), Replicate(), *sizes_and_scale]),
        ([Shard(1)] * num_outputs, [Shard(1), Replicate(), *sizes_and_scale]),
        ([Shard(0)] * num_outputs, [Replicate(), Shard(0), *sizes_and_scale]),
    ]


@register_sharding(ops.roi_pool_backward.default)
def _roi_pool_backward(*_: Any) -> list[Rule]:
    sizes_and_scale = [None, None, None, None]
    return [
        ([Replicate()], [Replicate(), Replicate(), Replicate(), *sizes_and_scale]),
        ([Shard(1)], [Shard(1), Replicate(), Shard(1), *sizes_and_scale]),
        ([Partial()], [Shard(0), Shard(0), Shard(0), *sizes_and_scale]),
    ]


@register_sharding(ops.roi_pool_gather.default)
def _roi_pool_gather(*_: Any) -> list[Rule]:
    return [
        ([Replicate()], [Replicate(), Replicate(), Replicate(), None]),
        ([Shard(1)], [Shard(1), Replicate(), Shard(1), None]),
        ([Shard(0)], [Replicate(), Shard(0), Shard(0), None]),
    ]
