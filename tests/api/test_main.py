"""`python -m roipool` and the version."""

import functools
import json
import platform
import subprocess
import sys
from importlib.metadata import version

import torch

import roipool


@functools.cache
def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "roipool", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_version_is_that_of_the_installed_package():
    assert roipool.__version__ == version("roipool")


def test_json():
    facts = json.loads(run("--json"))
    assert facts["roipool"] == roipool.__version__
    assert facts["torch"] == torch.__version__
    assert facts["python"] == platform.python_version()
    assert facts["cpu_capability"] == roipool._C.cpu_capability
    assert facts["cpu_threads"] >= 1
    assert facts["compiler"]
    assert (facts["cuda"] is None) == (facts["cuda_architectures"] == [])
    assert facts["cuda_loaded"] == (facts["cuda"] is not None and torch.version.cuda is not None)


def test_text_says_the_same():
    facts = json.loads(run("--json"))
    text = run()
    for key in ["roipool", "torch", "python", "compiler", "cpu_capability"]:
        assert str(facts[key]) in text
    if facts["cuda"] is None:
        assert "not built" in text
    else:
        assert facts["cuda"] in text
        assert " ".join(facts["cuda_architectures"]) in text
    assert f"CUDA kernels loaded {'yes' if facts['cuda_loaded'] else 'no'}\n" in text
