"""Work that tests do in other processes, which import it from here: they cannot import a file of tests."""

import copy
import os

import torch
import torch.distributed as dist
from support import assert_same_bits, features, random_rois
from torch import multiprocessing, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parallel import DistributedDataParallel

import roipool

X = features((2, 6, 9, 8), torch.float32, seed=0)
ROIS = random_rois(11, 2, 18, 16, seed=0).float()
GRAD = features((11, 6, 3, 2), torch.float32, seed=1)


def run_process(rank, world_size, file, work, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=world_size)
    work(*arguments)
    dist.barrier()  # no process may leave while another talks to it
    # FSDP2 makes an interpreter abort at its exit now and then, after all is done.
    os._exit(0)


def in_processes(world_size, tmp_path, work, *arguments):
    """Runs work(*arguments) in so many processes of one group. Raises what any of them raises."""
    multiprocessing.spawn(
        run_process, args=(world_size, tmp_path / "rendezvous", work, arguments), nprocs=world_size, join=True
    )


def pool(x, rois):
    output = roipool.roi_pool(x, rois, (3, 2), 0.5)
    (grad_input,) = torch.autograd.grad(output, x, distribute_like(GRAD, output))
    return output, grad_input


def distribute_like(tensor, other):
    return distribute_tensor(tensor, other.device_mesh, other.placements) if isinstance(other, DTensor) else tensor


def pool_in_process(queue, x, rois, layer):
    torch.set_num_threads(1)
    x = x.clone().requires_grad_()
    output = layer(x, rois)
    output.sum().backward()
    queue.put((output.detach().numpy(), x.grad.numpy()))


# ---- DTensor.


SHARDED = [  # placements of the map, the regions, the output and the gradient
    (Replicate(), Replicate(), Replicate(), Replicate()),
    (Shard(1), Replicate(), Shard(1), Shard(1)),
    (Replicate(), Shard(0), Shard(0), Partial()),
]


def check_placements():
    """Pools tensors that are sharded without communication where that can be, and redistributes others."""
    for placements in SHARDED:
        check_sharded(*placements)
    check_redistributed()


def check_sharded(input_placement, rois_placement, output_placement, grad_placement):
    import roipool.distributed

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    x = distribute_tensor(X, mesh, [input_placement]).requires_grad_()
    rois = distribute_tensor(ROIS, mesh, [rois_placement])
    with CommDebugMode() as communication:
        output = roipool.roi_pool(x, rois, (3, 2), 0.5)
    assert communication.get_total_counts() == 0
    assert output.placements == (output_placement,)
    grad_output = distribute_like(GRAD, output)
    with CommDebugMode() as communication:
        (grad_input,) = torch.autograd.grad(output, x, grad_output, create_graph=True)
    assert communication.get_total_counts() == 0
    assert grad_input.placements == (grad_placement,)

    expected_output, expected_grad = pool(X.clone().requires_grad_(), ROIS)
    assert_same_bits(output.full_tensor(), expected_output.detach())
    if isinstance(grad_placement, Partial):
        torch.testing.assert_close(grad_input.full_tensor(), expected_grad)
    else:
        assert_same_bits(grad_input.full_tensor(), expected_grad)

    argmax = roipool.roi_pool(x, rois, (3, 2), 0.5, return_argmax=True)[1]
    assert argmax.placements == (output_placement,)
    gathered = torch.ops.roipool.roi_pool_gather(x, rois, argmax, 0.5)
    assert gathered.placements == (output_placement,)
    assert_same_bits(gathered.full_tensor(), expected_output.detach())


def check_redistributed():
    import roipool.distributed

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for placements in [(Shard(0), Shard(0)), (Shard(2), Replicate()), (Shard(1), Shard(0)), (Replicate(), Shard(1))]:
        x = distribute_tensor(X, mesh, [placements[0]]).requires_grad_()
        output = roipool.roi_pool(x, distribute_tensor(ROIS, mesh, [placements[1]]), (3, 2), 0.5)
        (grad_input,) = torch.autograd.grad(output, x, distribute_like(GRAD, output))
        expected_output, expected_grad = pool(X.clone().requires_grad_(), ROIS)
        assert_same_bits(output.full_tensor(), expected_output.detach())
        torch.testing.assert_close(grad_input.full_tensor(), expected_grad)


# ---- Data parallel training.


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.Sequential(nn.Conv2d(6, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.pool = roipool.RoIPool(2, 0.5)
        self.head = nn.Linear(32, 3)

    def forward(self, x, rois):
        return self.head(self.pool(self.backbone(x), rois).flatten(1))


def batch(rank):
    """Makes one image and six regions for each process: with equal shares, the mean of means is the mean."""
    return features((1, 6, 9, 8), torch.float64, seed=10 + rank), random_rois(6, 1, 18, 16, seed=rank)


def full(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def train(model, batches, steps=3):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    losses, grads = [], []
    for _ in range(steps):
        loss = torch.stack([model(x, rois).square().mean() for x, rois in batches]).mean()
        optimizer.zero_grad()
        loss.backward()
        grads += [full(parameter.grad) for parameter in model.parameters()]
        optimizer.step()
        losses.append(loss.detach())
    return losses, grads


def check_trainings():
    """Trains a model in each way of data parallel training."""
    for wrap in ["ddp", "fsdp2"]:
        check_training(wrap)


def check_training(wrap):
    rank, world_size = dist.get_rank(), dist.get_world_size()
    model = Detector().double()
    expected_losses, expected_grads = train(copy.deepcopy(model), [batch(i) for i in range(world_size)])
    if wrap == "ddp":
        model = DistributedDataParallel(model)
    else:
        mesh = init_device_mesh("cpu", (world_size,))
        for layer in [model.backbone, model.head, model]:
            fully_shard(layer, mesh=mesh)
    losses, grads = train(model, [batch(rank)])
    for loss, expected in zip(losses, expected_losses, strict=True):
        dist.all_reduce(loss)
        torch.testing.assert_close(loss / world_size, expected)
    for grad, expected in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, expected)
