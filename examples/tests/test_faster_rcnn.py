"""Tiny runs of faster_rcnn.py, in one process and in two, and the images that it trains on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[1]))

import faster_rcnn
import shapes

# torchvision's, about detectors that have learned nothing yet
pytestmark = pytest.mark.filterwarnings("ignore:boxes doesn't contain any box")

STEPS = 12
RUN = f"--steps {STEPS} --batch-size 4 --checkpoint-every 4 --held-out 4 --workers 0".split()
TIMEOUT = 120  # seconds, of a run in two processes


def run_arguments(directory: Path) -> list[str]:
    return [*RUN, "--out", str(directory / "out"), "--checkpoint", str(directory / "state.pt")]


def load_state(directory: Path) -> dict:
    return torch.load(directory / "state.pt")


def assert_same_training(one: dict, other: dict) -> None:
    """Bit for bit."""
    assert one["history"]["losses"] == other["history"]["losses"]
    assert one["schedule"] == other["schedule"]
    torch.testing.assert_close(one["model"], other["model"], rtol=0, atol=0)
    torch.testing.assert_close(one["optimizer"]["state"], other["optimizer"]["state"], rtol=0, atol=0)


def start_torchrun(directory: Path) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3"]
    command = [sys.executable, *torchrun, faster_rcnn.__file__, *run_arguments(directory)]
    with (directory / "log").open("w") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)


def wait(process: subprocess.Popen, directory: Path) -> None:
    """For its success; whatever happens, nothing of it is left running."""
    try:
        assert process.wait(TIMEOUT) == 0, (directory / "log").read_text()
    finally:
        process.terminate()  # torchrun then stops its workers
        process.wait(TIMEOUT)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> dict:
    directory = tmp_path_factory.mktemp("whole")
    faster_rcnn.main(run_arguments(directory))
    return load_state(directory)


@pytest.fixture(scope="module")
def two_process_run(tmp_path_factory: pytest.TempPathFactory) -> dict:
    directory = tmp_path_factory.mktemp("two")
    wait(start_torchrun(directory), directory)
    return load_state(directory)


def test_images_depend_on_seed_and_index_alone():
    def load(**options) -> list[tuple[torch.Tensor, shapes.Target]]:
        dataset = shapes.Shapes(6, size=128, **options)
        loader = DataLoader(dataset, batch_size=2, collate_fn=shapes.collate, num_workers=1)
        return [sample for images, targets in loader for sample in zip(images, targets, strict=True)]

    samples = load()
    torch.testing.assert_close(samples, load(), rtol=0, atol=0)
    for image, _ in [*load(seed=1), *load(train=False)]:
        assert not any(torch.equal(image, other) for other, _ in samples)


def test_boxes_are_tight(monkeypatch: pytest.MonkeyPatch):
    """What a shape paints follows from the same shapes on black and on white."""
    painted = {}
    dataset = shapes.Shapes(20, size=128)
    for background in ["black", "white"]:
        monkeypatch.setattr(shapes, "make_background", lambda *_, color=background: Image.new("RGB", (128, 128), color))
        painted[background] = [image.mean(0) for image, _ in dataset]
    for index, (_, target) in enumerate(dataset):
        alpha = 1 - (painted["white"][index] - painted["black"][index])
        boxes = target["boxes"].long()
        assert len(boxes) == len(target["labels"])
        outside = alpha > 0.5
        for x1, y1, x2, y2 in boxes.tolist():
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 128
            box = alpha[y1:y2, x1:x2]
            for edge in [box[0], box[-1], box[:, 0], box[:, -1]]:
                assert edge.max() > 0.3
            outside[y1:y2, x1:x2] = False
        assert not outside.any()


def test_loss_falls(whole_run: dict):
    losses = whole_run["history"]["losses"]
    assert len(losses) == STEPS
    assert np.mean(losses[-3:]) < 0.8 * losses[0]


def test_interrupted_run_ends_as_the_whole_one(whole_run: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save_checkpoint = faster_rcnn.save_checkpoint

    def save_and_stop(*arguments: object) -> None:
        save_checkpoint(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(faster_rcnn, "save_checkpoint", save_and_stop)
    with pytest.raises(KeyboardInterrupt):
        faster_rcnn.main(run_arguments(tmp_path))
    assert len(load_state(tmp_path)["history"]["losses"]) == 4
    monkeypatch.undo()
    faster_rcnn.main(run_arguments(tmp_path))

    resumed_run = load_state(tmp_path)
    assert resumed_run["history"]["resumed_at"] == [4]
    assert_same_training(whole_run, resumed_run)


def test_checkpoint_of_another_run_is_refused(whole_run: dict, tmp_path: Path):
    torch.save(whole_run, tmp_path / "state.pt")
    with pytest.raises(SystemExit, match="of another run"):
        faster_rcnn.main([*run_arguments(tmp_path), "--seed", "1"])


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_processes_share_every_batch(world_size: int):
    shares = [faster_rcnn.split_batches(range(2, 5), 8, rank, world_size) for rank in range(world_size)]
    assert {len(batch) for share in shares for batch in share} == {8 // world_size}
    steps = [sorted(index for batch in batches for index in batch) for batches in zip(*shares, strict=True)]
    assert steps == [list(range(8 * step, 8 * (step + 1))) for step in range(2, 5)]


def test_two_processes_learn_as_one(whole_run: dict, two_process_run: dict):
    """Up to the anchors and proposals that are sampled."""
    one, two = whole_run["history"]["losses"], two_process_run["history"]["losses"]
    assert two[0] == pytest.approx(one[0], rel=0.05)
    assert np.mean(two) == pytest.approx(np.mean(one), rel=0.1)


def test_killed_worker_costs_nothing_but_time(two_process_run: dict, tmp_path: Path):
    process = start_torchrun(tmp_path)
    deadline = time.monotonic() + TIMEOUT
    while not (tmp_path / "state.pt").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False)
    if pids := workers.stdout.split():
        os.kill(int(pids[-1]), signal.SIGKILL)
    wait(process, tmp_path)

    killed_run = load_state(tmp_path)
    assert killed_run["history"]["resumed_at"] in ([4], [8])
    assert_same_training(two_process_run, killed_run)
