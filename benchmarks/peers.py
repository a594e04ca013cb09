"""Gives roipool and its peers one signature: they take a part of a workload and an output size.

A peer that is not installed is left out, and one that cannot do what it is asked for raises Unable.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from workloads import Part, Workload

import roipool

Peer = Callable[..., Tensor]  # (part, output_size, out=None)


class Unable(Exception):
    """Says that a peer lacks something: a dtype, a derivative."""


def pool_roipool(part: Part, output_size: tuple[int, int], out: Tensor | None = None) -> Tensor:
    return roipool.roi_pool(part.input, part.rois, output_size, part.spatial_scale, out=out)


def make_torchvision() -> Peer:
    from torchvision.ops import roi_pool

    def pool_torchvision(part: Part, output_size: tuple[int, int]) -> Tensor:
        if part.input.dtype == torch.bfloat16:  # as torchvision's autocast does
            return roi_pool(part.input.float(), part.rois, output_size, part.spatial_scale).bfloat16()
        # torchvision wants the boxes in the dtype of the features.
        return roi_pool(part.input, part.rois.to(part.input.dtype), output_size, part.spatial_scale)

    return pool_torchvision


def pool_adaptive(part: Part, output_size: tuple[int, int]) -> Tensor:
    """Does what people write by hand: crops, then torch.nn.functional.adaptive_max_pool2d."""
    corners = (part.rois[:, 1:] * part.spatial_scale + 0.5).floor().int().tolist()  # no corner is negative here
    images = part.rois[:, 0].int().tolist()
    return torch.stack(
        [
            F.adaptive_max_pool2d(part.input[image, :, top : bottom + 1, left : right + 1], output_size)
            for image, (left, top, right, bottom) in zip(images, corners, strict=True)
        ]
    )


def require_cpu_float32_inference(part: Part) -> None:
    """Raises Unable unless the part is what OpenVINO and ONNX Runtime can pool here."""
    input = part.input
    if not input.is_cpu or input.dtype != torch.float32 or not input.is_contiguous() or input.requires_grad:
        raise Unable


def make_openvino() -> Peer:
    import openvino
    from openvino import opset2

    requests: WeakKeyDictionary[Part, openvino.InferRequest] = WeakKeyDictionary()

    def pool_openvino(part: Part, output_size: tuple[int, int], out: Tensor | None = None) -> Tensor:
        # OpenVINO keeps the memory of its output in any case, so `out` is not needed.
        require_cpu_float32_inference(part)
        if part not in requests:
            input, rois = (opset2.parameter(list(t.shape), np.float32) for t in [part.input, part.rois])
            node = opset2.roi_pooling(input, rois, list(output_size), part.spatial_scale, "max")
            model = openvino.Model([node], [input, rois], "roi_pooling")
            config = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
            requests[part] = openvino.compile_model(model, "CPU", config).create_infer_request()
        result = requests[part].infer([part.input.numpy(), part.rois.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(result[0])

    return pool_openvino


def make_onnxruntime() -> Peer:
    import onnxruntime
    from onnx import TensorProto, helper

    sessions: WeakKeyDictionary[Part, onnxruntime.InferenceSession] = WeakKeyDictionary()

    def pool_onnxruntime(part: Part, output_size: tuple[int, int]) -> Tensor:
        require_cpu_float32_inference(part)
        if part not in sessions:
            names = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ["x", "rois", "y"]]
            node = helper.make_node(
                "MaxRoiPool", ["x", "rois"], ["y"], pooled_shape=output_size, spatial_scale=part.spatial_scale
            )
            graph = helper.make_graph([node], "max_roi_pool", names[:2], names[2:])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            sessions[part] = onnxruntime.InferenceSession(model.SerializeToString(), options)
        return torch.from_numpy(sessions[part].run(None, {"x": part.input.numpy(), "rois": part.rois.numpy()})[0])

    return pool_onnxruntime


# Names the functions that can write to memory that is kept.
KEEP_OUTPUTS = {"pool_roipool", "pool_openvino"}

PEERS: dict[str, Callable[[], Peer]] = {
    "roipool": lambda: pool_roipool,
    "torchvision": make_torchvision,
    "openvino": make_openvino,
    "onnxruntime": make_onnxruntime,
    "adaptive_max_pool2d": lambda: pool_adaptive,
}


def load_peers(names: list[str]) -> dict[str, Peer]:
    """Returns those of the named peers that can be imported; roipool always, and first."""
    peers: dict[str, Peer] = {}
    for name, make in PEERS.items():
        if name == "roipool" or name in names:
            try:
                peers[name] = make()
            except (ImportError, RuntimeError) as error:  # torchvision raises either of them beside another torch
                print(f"{name} is left out: {error}")
    return peers


def time_mxnet(
    python: Path, workload: Workload, dtype: str, mode: str, parts: list[Part], num_rounds: int
) -> tuple[list[float], list[Tensor]]:
    """Runs mxnet_peer.py. Returns the seconds of each round, and the outputs of a forward."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {
            "dtype": dtype,
            "mode": mode,
            "rounds": num_rounds,
            "output_size": workload.output_size,
            "spatial_scales": [part.spatial_scale for part in parts],
        }
        (folder / "job.json").write_text(json.dumps(job))
        for i, part in enumerate(parts):
            np.save(folder / f"input{i}.npy", part.input.contiguous().numpy())
            np.save(folder / f"rois{i}.npy", part.rois.numpy())
        command = [python, Path(__file__).parent / "mxnet_peer.py", folder]
        environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
        environment.pop("LD_LIBRARY_PATH", None)
        printed = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        outputs = [torch.from_numpy(np.load(folder / f"output{i}.npy")) for i in range(len(parts))]
        return json.loads(printed.splitlines()[-1]), outputs
