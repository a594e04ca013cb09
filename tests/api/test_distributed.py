"""DTensor, DDP and FSDP2: several processes on CPU give what one gives."""

import pytest
from processes import check_placements, check_trainings, in_processes

WORLD_SIZES = [2, pytest.param(4, marks=pytest.mark.slow)]


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_sharded_tensors_are_pooled_as_whole_ones(tmp_path, world_size):
    in_processes(world_size, tmp_path, check_placements)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_training_in_parallel_is_training_in_one_process(tmp_path, world_size):
    in_processes(world_size, tmp_path, check_trainings)
