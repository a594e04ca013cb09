"""DTensor, DDP and FSDP2: several processes on CPU give what one gives."""

import pytest
from processes import check_redistributed, check_sharded, check_training, in_processes
from torch.distributed.tensor import Partial, Replicate, Shard


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize(
    "placements",
    [
        (Replicate(), Replicate(), Replicate(), Replicate()),
        (Shard(1), Replicate(), Shard(1), Shard(1)),
        (Replicate(), Shard(0), Shard(0), Partial()),
    ],
    ids=["replicated", "channels", "rois"],
)
def test_sharded_without_communication(tmp_path, placements, world_size):
    in_processes(world_size, tmp_path, check_sharded, *placements)


def test_other_placements_are_redistributed(tmp_path):
    in_processes(2, tmp_path, check_redistributed)


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("wrap", ["ddp", "fsdp2"])
def test_training_in_parallel_is_training_in_one_process(tmp_path, wrap, world_size):
    in_processes(world_size, tmp_path, check_training, wrap)
