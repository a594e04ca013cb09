"""ONNX Runtime gives the bits of eager mode for what roipool.onnx exports."""

import subprocess
import sys
import warnings

import onnxruntime
import pytest
import torch
from support import assert_same_bits, features, random_rois
from torch.export import Dim

import roipool
import roipool.onnx


class Model(torch.nn.Module):
    def __init__(self, spatial_scale=0.5):
        super().__init__()
        self.pool = roipool.RoIPool((3, 2), spatial_scale)

    def forward(self, x, boxes):
        return self.pool(x * 2, boxes) + 1


def rois_and_lists(n, k, h, w):
    rois = random_rois(k, n, 2.0 * h, 2.0 * w, seed=k).float()
    return rois, [rois[rois[:, 0] == i, 1:] for i in range(n)]


def export(model, x, boxes):
    images = {2: Dim("H"), 3: Dim("W")}
    if isinstance(boxes, list):
        dynamic_shapes = (images, [{0: Dim(f"L{i}")} for i in range(len(boxes))])
    else:
        dynamic_shapes = ({0: Dim("N"), **images}, {0: Dim("K")})
    table = roipool.onnx.translation_table()
    with warnings.catch_warnings():  # the exporter warns of itself
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        return torch.onnx.export(
            model.eval(),
            (x, boxes),
            dynamo=True,
            custom_translation_table=table,
            dynamic_shapes=dynamic_shapes,
            verbose=False,
        )


def run(program, *tensors):
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {input.name: tensor.numpy() for input, tensor in zip(session.get_inputs(), tensors, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


@pytest.mark.parametrize("form", ["rois", "lists"])
def test_runs_in_onnxruntime_with_the_bits_of_eager_mode(form):
    model = Model()
    x = features((2, 3, 20, 22), torch.float32, seed=0)
    program = export(model, x, rois_and_lists(2, 9, 20, 22)[form == "lists"])
    (node,) = [node for node in program.model.graph if node.op_type == "MaxRoiPool"]
    assert node.domain == ""
    assert list(node.attributes["pooled_shape"].as_ints()) == [3, 2]
    assert node.attributes["spatial_scale"].as_float() == 0.5
    for n, k, h, w in [(2, 9, 20, 22), (2, 40, 13, 31), (3, 25, 17, 19)]:
        x = features((n, 3, h, w), torch.float32, seed=k)
        rois, lists = rois_and_lists(n, k, h, w)
        if form == "rois":
            assert_same_bits(run(program, x, rois), model(x, rois))
        elif n == 2:
            assert_same_bits(run(program, x, *lists), model(x, lists))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.float16])
def test_boxes_of_other_dtypes_are_cast(dtype):
    x = features((2, 3, 20, 22), torch.float32, seed=0)
    rois = rois_and_lists(2, 9, 20, 22)[0].to(dtype)
    program = export(Model(), x, rois)
    assert [node.op_type for node in program.model.graph if node.op_type != "CastLike"][-2:] == ["MaxRoiPool", "Add"]
    assert_same_bits(run(program, x, rois), Model()(x, rois))


def cause_of(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


class WithArgmax(torch.nn.Module):
    def forward(self, x, rois):
        return roipool.roi_pool(x, rois, 2, return_argmax=True)[1]


@pytest.mark.parametrize(
    ("model", "dtype", "roi_dtype", "message"),
    [
        (Model(), torch.bfloat16, torch.float32, "takes float16, float32 or float64 features, got BFLOAT16"),
        (Model(), torch.float32, torch.float64, "which would round float64 to FLOAT: make them float32 in the model"),
        (WithArgmax(), torch.float32, torch.float32, "ONNX has no operator for return_argmax=True"),
    ],
)
def test_refused_at_export(model, dtype, roi_dtype, message):
    x = features((2, 3, 20, 22), dtype, seed=0)
    rois = rois_and_lists(2, 9, 20, 22)[0].to(roi_dtype)
    with pytest.raises(torch.onnx.OnnxExporterError) as caught:
        export(model, x, rois)
    assert isinstance(cause_of(caught.value), ValueError)
    assert message in str(cause_of(caught.value))


def test_warns_of_rounding():
    rois = rois_and_lists(2, 9, 20, 22)[0]
    with pytest.warns(UserWarning, match=r"MaxRoiPool takes boxes in the dtype of the features, float16"):
        export(Model(), features((2, 3, 20, 22), torch.float16, seed=0), rois)
    with pytest.warns(UserWarning, match=r"ONNX holds spatial_scale as a float32, which rounds 0\.7"):
        export(Model(0.7), features((2, 3, 20, 22), torch.float64, seed=0), rois.double())
    export(Model(0.7), features((2, 3, 20, 22), torch.float32, seed=0), rois)  # nothing is rounded, so nothing warns


def test_without_onnxscript_it_says_what_to_install():
    program = "import sys; sys.modules['onnxscript'] = None; import roipool.onnx; roipool.onnx.translation_table()"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].endswith("pip install 'roipool[onnx]'")
