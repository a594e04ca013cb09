"""ONNX Runtime gives the bits of eager mode for the models that PyTorch's exporters write."""

import io
import subprocess
import sys
import warnings

import onnx
import onnxruntime
import pyramid
import pytest
import torch
from pyramid import IMAGE, NAMES, SCALES, maps_of
from support import assert_same_bits, features, random_rois
from torch.export import Dim

import roipool
import roipool.onnx


@pytest.fixture(autouse=True)
def ignore_warnings_of_the_exporters():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)
        warnings.filterwarnings("ignore", message="Exporting aten::index operator", category=UserWarning)
        yield


class Model(torch.nn.Module):
    def __init__(self, spatial_scale=0.5):
        super().__init__()
        self.pool = roipool.RoIPool((3, 2), spatial_scale)

    def forward(self, x, boxes):
        return self.pool(x * 2, boxes) + 1


class Pyramid(torch.nn.Module):
    def __init__(self, num_levels=4, scales=SCALES):
        super().__init__()
        self.names = NAMES[:num_levels]
        self.pool = roipool.MultiScaleRoIPool(self.names, (3, 2), scales=scales[:num_levels])

    def forward(self, *arguments):
        *maps, boxes = arguments
        return self.pool(dict(zip(self.names, maps, strict=True)), boxes, [IMAGE]) + 1


def boxes_of(*arguments, **keywords):
    return pyramid.boxes_of(*arguments, **keywords).float()


def rois_and_lists(n, k, h, w):
    rois = random_rois(k, n, 2.0 * h, 2.0 * w, seed=k).float()
    return rois, [rois[rois[:, 0] == i, 1:] for i in range(n)]


def export(model, arguments, dynamic_shapes, exporter="dynamo"):
    """Returns the bytes of a model file. `dynamic_shapes` has a dictionary for each of the arguments."""
    file = io.BytesIO()
    if exporter == "trace":
        names = [f"argument{i}" for i in range(len(arguments))]
        axes = {
            name: {axis: f"{name}_{axis}" for axis in shapes}
            for name, shapes in zip(names, dynamic_shapes, strict=True)
        }
        torch.onnx.export(model.eval(), arguments, file, dynamo=False, input_names=names, dynamic_axes=axes)
        return file.getvalue()
    if isinstance(model, Pyramid):
        dynamic_shapes = (dynamic_shapes,)  # of its one variadic argument
    if exporter == "program":
        model = torch.export.export(model.eval(), arguments, dynamic_shapes=dynamic_shapes)
        program = roipool.onnx.export(model, arguments, verbose=False)
    else:
        program = torch.onnx.export(model.eval(), arguments, dynamic_shapes=dynamic_shapes, dynamo=True, verbose=False)
    return program.model_proto.SerializeToString()


def nodes_of(model, op_type):
    return [node for node in onnx.load_from_string(model).graph.node if node.op_type == op_type]


def run(model, *tensors):
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feed = {input.name: tensor.numpy() for input, tensor in zip(session.get_inputs(), tensors, strict=True)}
    return torch.from_numpy(session.run(None, feed)[0])


EXPORTERS = ["dynamo", "trace", "program"]
DYNAMIC = ({0: Dim("N"), 2: Dim("H"), 3: Dim("W")}, {0: Dim("K")})


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_runs_in_onnxruntime_with_the_bits_of_eager_mode(exporter):
    model = Model()
    x, rois = features((2, 3, 20, 22), torch.float32, seed=0), rois_and_lists(2, 9, 20, 22)[0]
    exported = export(model, (x, rois), DYNAMIC, exporter)
    (node,) = nodes_of(exported, "MaxRoiPool")
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    assert attributes == {"pooled_shape": [3, 2], "spatial_scale": 0.5}
    for n, k, h, w in [(2, 9, 20, 22), (2, 40, 13, 31), (3, 25, 17, 19)]:
        x = features((n, 3, h, w), torch.float32, seed=k)
        rois, _ = rois_and_lists(n, k, h, w)
        assert_same_bits(run(exported, x, rois), model(x, rois))


def test_lists_of_boxes():
    model = Model()
    images = {2: Dim("H"), 3: Dim("W")}
    arguments = (features((2, 3, 20, 22), torch.float32, seed=0), rois_and_lists(2, 9, 20, 22)[1])
    exported = export(model, arguments, (images, [{0: Dim("L0")}, {0: Dim("L1")}]))
    for k, h, w in [(9, 20, 22), (40, 13, 31)]:
        x, lists = features((2, 3, h, w), torch.float32, seed=k), rois_and_lists(2, k, h, w)[1]
        assert_same_bits(run(exported, x, *lists), model(x, lists))


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("num_levels", [1, 4])
def test_pyramids(exporter, num_levels):
    """Each level has a MaxRoiPool, and there may be levels without regions."""
    model = Pyramid(num_levels)
    maps = maps_of()[:num_levels]
    exported = export(model, (*maps, boxes_of()), (*[{}] * num_levels, {0: Dim("K")}), exporter)
    scales = [node.attribute[1].f for node in nodes_of(exported, "MaxRoiPool")]
    assert scales == SCALES[:num_levels]
    for rois in [boxes_of(), boxes_of(23, seed=1), boxes_of()[:1], boxes_of()[:0]]:
        assert_same_bits(run(exported, *maps, rois), model(*maps, rois))


@pytest.mark.parametrize("exporter", EXPORTERS)
def test_boxes_at_the_bounds_of_levels_have_the_level_of_eager_mode(exporter):
    """A box of 112 px on the side lies where floats decide between the first level and the second."""
    model = Pyramid(2)
    maps = [torch.zeros(1, 1, 64, 80), torch.ones(1, 1, 32, 40)]
    sides = torch.tensor([112.0]).view(torch.int32) + torch.arange(-40, 40, dtype=torch.int32)
    rois = torch.zeros(80, 5)
    rois[:, 3], rois[:, 4] = sides.view(torch.float32), 112.0
    exported = export(model, (*maps, rois), ({}, {}, {0: Dim("K")}), exporter)
    expected = model(*maps, rois)
    assert expected.unique().tolist() == [1, 2]
    assert_same_bits(run(exported, *maps, rois), expected)


@pytest.mark.parametrize("exporter", ["dynamo", "trace"])
def test_a_scale_for_each_axis(exporter):
    x, rois = features((2, 3, 20, 22), torch.float32, seed=0), rois_and_lists(2, 9, 20, 22)[0]
    model = Model((0.5, 0.7))
    assert_same_bits(run(export(model, (x, rois), DYNAMIC, exporter), x, rois), model(x, rois))
    pairs = [(scale, scale / 2) for scale in SCALES]
    model, arguments = Pyramid(4, pairs), (*maps_of(), boxes_of())
    exported = export(model, arguments, (*[{}] * 4, {0: Dim("K")}), exporter)
    assert_same_bits(run(exported, *arguments), model(*arguments))


@pytest.mark.parametrize("dtype", [torch.int64, torch.float16])
@pytest.mark.parametrize("exporter", ["dynamo", "trace"])
def test_boxes_of_other_dtypes_are_cast(exporter, dtype):
    x = features((2, 3, 20, 22), torch.float32, seed=0)
    rois = rois_and_lists(2, 9, 20, 22)[0].to(dtype)
    assert_same_bits(run(export(Model(), (x, rois), DYNAMIC, exporter), x, rois), Model()(x, rois))
    maps, rois = maps_of(), boxes_of().to(dtype)
    exported = export(Pyramid(), (*maps, rois), (*[{}] * 4, {0: Dim("K")}), exporter)
    assert_same_bits(run(exported, *maps, rois), Pyramid()(*maps, rois))


def causes_of(error: BaseException) -> str:
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)


class WithArgmax(torch.nn.Module):
    def forward(self, x, rois):
        return roipool.roi_pool(x, rois, 2, return_argmax=True)[1]


class WithOut(torch.nn.Module):
    def forward(self, x, rois):
        return roipool.roi_pool(x, rois, 2, out=x.new_empty(rois.shape[0], x.shape[1], 2, 2))


@pytest.mark.parametrize(
    ("model", "dtype", "roi_dtype", "message"),
    [
        (Model(), torch.bfloat16, torch.float32, "takes float16, float32 or float64 features, got bfloat16"),
        (Model(), torch.float32, torch.float64, "which would round float64 to float32: make them float32 in the model"),
        (WithArgmax(), torch.float32, torch.float32, "ONNX has no operator for return_argmax=True"),
        (WithOut(), torch.float32, torch.float32, "ONNX has no operator for out="),
    ],
)
@pytest.mark.parametrize("exporter", ["dynamo", "trace"])
def test_refused_at_export(exporter, model, dtype, roi_dtype, message):
    x = features((2, 3, 20, 22), dtype, seed=0)
    rois = rois_and_lists(2, 9, 20, 22)[0].to(roi_dtype)
    with pytest.raises((torch.onnx.OnnxExporterError, ValueError)) as caught:
        export(model, (x, rois), DYNAMIC, exporter)
    assert message in causes_of(caught.value)


@pytest.mark.parametrize("exporter", ["dynamo", "trace"])
def test_warns_of_rounding(exporter):
    rois = rois_and_lists(2, 9, 20, 22)[0]
    with pytest.warns(UserWarning, match=r"MaxRoiPool takes boxes in the dtype of the features, float16"):
        export(Model(), (features((2, 3, 20, 22), torch.float16, seed=0), rois), DYNAMIC, exporter)
    x = features((2, 3, 20, 22), torch.float64, seed=0)
    with pytest.warns(UserWarning, match=r"ONNX holds spatial_scale as a float32, which rounds 0\.7"):
        export(Model(0.7), (x, rois.double()), DYNAMIC, exporter)
    export(Model(0.7), (x.float(), rois), DYNAMIC, exporter)  # nothing is rounded, so nothing warns


class CallsOperators(torch.nn.Module):
    def forward(self, x, rois):
        pooled = torch.ops.roipool.roi_pool(x, rois, 2, 2, 0.5)
        return pooled + torch.ops.roipool.multiscale_roi_pool([x], rois, 2, 2, [0.5], 224.0, 4)


def test_calls_of_the_operators_themselves():
    """An exported program may hold them, from a compiler or another author."""
    arguments = (features((2, 3, 20, 22), torch.float32, seed=0), rois_and_lists(2, 9, 20, 22)[0])
    exported = export(CallsOperators(), arguments, DYNAMIC, "program")
    assert_same_bits(run(exported, *arguments), CallsOperators()(*arguments))
    with pytest.raises(ValueError, match=r"cannot take the operator multiscale_roi_pool .*: give it the module"):
        export(CallsOperators(), arguments, DYNAMIC, "trace")


def test_eager_mode_after_an_export_is_what_it_was():
    x, rois = features((2, 3, 20, 22), torch.float32, seed=0), rois_and_lists(2, 9, 20, 22)[0]
    before = Model()(x, rois)
    export(Model(), (x, rois), DYNAMIC)
    assert_same_bits(Model()(x, rois), before)


def test_importing_roipool_does_not_import_its_exporter():
    program = "import sys, roipool; assert 'roipool.onnx' not in sys.modules and 'onnxscript' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
