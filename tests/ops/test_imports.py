"""What the package imports: nothing slow, and nothing private of PyTorch's outside the one file for it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import roipool

PACKAGE = Path(roipool.__file__).parent
EAGER_CALLS = """
import sys
import torch
before = "sympy" in sys.modules  # if it is, torch itself imports it
import roipool

rois = torch.tensor([[0.0, 0, 0, 3, 3]])
x = torch.ones(1, 1, 4, 4, requires_grad=True)
roipool.roi_pool(x, rois, 2).sum().backward()
roipool.roi_pool(x, [rois[:, 1:]], 2, return_argmax=True)
roipool.multiscale_roi_pool([x, x], rois, 2, [1.0, 0.5]).sum().backward()
roipool.roi_pool(x.detach(), rois, 2, out=torch.empty(0))
assert ("sympy" in sys.modules) == before
"""


def test_eager_calls_do_without_sympy():
    """Its import takes 0.3 s, and only symbols of the compiler need it."""
    run = subprocess.run([sys.executable, "-c", EAGER_CALLS], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def find_private_names(source: str) -> set[str]:
    """Returns the attributes that begin with an underscore, but for those of self, and such names imported of torch."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        names = []
        if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
            names = [node.attr]
        elif isinstance(node, ast.Import):
            names = [part for alias in node.names if alias.name.startswith("torch") for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            if node.module.startswith("torch.fx.experimental"):
                found.add(node.module)
        found |= {name for name in names if name.startswith("_") and not name.endswith("__")}
    return found


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import torch\ntorch._C._get_tracing_state()", {"_C", "_get_tracing_state"}),
        ("from torch._prims_common.wrappers import _maybe_resize_out", {"_prims_common", "_maybe_resize_out"}),
        ("import torch._dynamo as dynamo", {"_dynamo"}),
        ("from torch.fx.experimental.symbolic_shapes import guard_or_true", {"torch.fx.experimental.symbolic_shapes"}),
        ("from roipool import _C, _ops\nself._size = torch.__version__", set()),
    ],
)
def test_private_names_are_found(source, names):
    assert find_private_names(source) == names


def test_one_file_reaches_for_what_is_private_of_pytorch():
    found = {str(path.relative_to(PACKAGE)): find_private_names(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert found.pop("_ops/torch_private.py") >= {"_C", "_SingleLevelFunction"}
    assert {path for path, names in found.items() if names} == set()
