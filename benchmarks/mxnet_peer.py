"""Times MXNet's ROIPooling in an environment of its own; run.py --mxnet-python starts this program.

It needs `pip install "mxnet==1.9.1" "numpy<1.24" requests`, and no torch. Reads a folder of .npy files, and prints the
seconds of each round as JSON.
"""

import json
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np


def load_parts(folder, job):
    """Returns the maps, regions and scales that peers.py has saved; maps get gradients unless the mode is inference."""
    parts = []
    for i, spatial_scale in enumerate(job["spatial_scales"]):
        input = mx.nd.array(np.load(folder / f"input{i}.npy"), dtype=job["dtype"])
        rois = mx.nd.array(np.load(folder / f"rois{i}.npy"), dtype=job["dtype"])
        if job["mode"] != "inference":
            input.attach_grad()
        parts.append((input, rois, spatial_scale))
    return parts


def forward(parts, output_size):
    return [
        mx.nd.ROIPooling(input, rois, pooled_size=output_size, spatial_scale=spatial_scale)
        for input, rois, spatial_scale in parts
    ]


def make_call(mode, parts, output_size):
    """Returns the call of a mode. It waits until its results are there, since MXNet computes in the background."""

    def inference():
        for output in forward(parts, output_size):
            output.wait_to_read()

    def record():
        with mx.autograd.record():
            outputs = forward(parts, output_size)
        for output in outputs:
            output.wait_to_read()
        return outputs

    def backward(outputs, retain_graph):
        mx.autograd.backward(outputs, retain_graph=retain_graph)
        for input, _, _ in parts:
            input.grad.wait_to_read()

    recorded = record() if mode == "backward" else None
    return {
        "inference": inference,
        "forward": record,
        "backward": lambda: backward(recorded, True),
        "forward_backward": lambda: backward(record(), False),
    }[mode]


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    parts = load_parts(folder, job)
    call = make_call(job["mode"], parts, job["output_size"])

    call()  # to warm up
    times = []
    for _ in range(job["rounds"]):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    for i, output in enumerate(forward(parts, job["output_size"])):
        np.save(folder / f"output{i}.npy", output.asnumpy())
    print(json.dumps(times))


if __name__ == "__main__":
    main()
