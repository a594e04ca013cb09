"""Times MXNet's ROIPooling in an environment of its own; run.py starts it with `--mxnet-python`.

Needs `pip install "mxnet==1.9.1" "numpy<1.24" requests`, and no torch. Reads a folder of .npy files and prints JSON.
"""

import json
import sys
import time
from pathlib import Path

import mxnet as mx
import numpy as np


def main() -> None:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    parts = []
    for i, spatial_scale in enumerate(job["spatial_scales"]):
        input = mx.nd.array(np.load(folder / f"input{i}.npy"), dtype=job["dtype"])
        rois = mx.nd.array(np.load(folder / f"rois{i}.npy"), dtype=job["dtype"])
        if job["mode"] != "inference":
            input.attach_grad()
        parts.append((input, rois, spatial_scale))

    def forward():
        return [
            mx.nd.ROIPooling(input, rois, pooled_size=job["output_size"], spatial_scale=spatial_scale)
            for input, rois, spatial_scale in parts
        ]

    def inference():
        for output in forward():
            output.wait_to_read()

    def record():
        with mx.autograd.record():
            outputs = forward()
        for output in outputs:
            output.wait_to_read()
        return outputs

    def finish(outputs, retain_graph):
        mx.autograd.backward(outputs, retain_graph=retain_graph)
        for input, _, _ in parts:
            input.grad.wait_to_read()

    recorded = record() if job["mode"] == "backward" else None
    call = {
        "inference": inference,
        "forward": record,
        "backward": lambda: finish(recorded, True),
        "forward_backward": lambda: finish(record(), False),
    }[job["mode"]]

    call()
    times = []
    for _ in range(job["rounds"]):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    for i, output in enumerate(forward()):
        np.save(folder / f"output{i}.npy", output.asnumpy())
    print(json.dumps(times))


if __name__ == "__main__":
    main()
