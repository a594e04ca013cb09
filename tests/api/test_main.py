"""`python -m roipool` and the version."""

import functools
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

import roipool
from roipool import _selftest, reference


@functools.cache
def run(*arguments: str, **variables: str) -> str:
    command = [sys.executable, "-m", "roipool", *arguments]
    environment = {**os.environ, **variables}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


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
    (line,) = (line for line in text.splitlines() if line.startswith("CUDA kernels loaded"))
    assert line.split()[-1] == ("yes" if facts["cuda_loaded"] else "no")


def test_libraries_are_where_it_says():
    facts = json.loads(run("--json"))
    folder = Path(roipool.__file__).parent
    assert Path(facts["library"]) == folder / "libroipool.so"
    assert Path(facts["library"]).exists()
    cuda_library = folder / "libroipool_cuda.so"
    assert facts["cuda_library"] == (str(cuda_library) if cuda_library.exists() else None)


def test_switches():
    on = json.loads(run("--json", ROIPOOL_HUGE_PAGES="1", ROIPOOL_DETECT_BAD_BOXES="1"))
    off = json.loads(run("--json", ROIPOOL_HUGE_PAGES="0", ROIPOOL_DETECT_BAD_BOXES="0"))
    assert (on["huge_pages"], on["detect_bad_boxes"]) == (True, True)
    assert (off["huge_pages"], off["detect_bad_boxes"]) == (False, False)
    assert on["huge_pages_of_system"] in ("always", "madvise", "never", "unknown")


# ---- The self-test.


def test_selftest():
    assert run("--selftest").startswith("cpu: 1200 of 1200 results have the bits of the reference\n")


def test_selftest_covers_each_gpu(cuda):
    assert f"\ncuda:{cuda.index or 0}: 240 of 240 results" in run("--selftest")


@pytest.fixture
def few_problems(monkeypatch):
    monkeypatch.setattr(_selftest, "DTYPES", [torch.float16, torch.float32])
    monkeypatch.setattr(_selftest, "OUTPUT_SIZES", [(3, 2)])


def flip_last_value(pooled: torch.Tensor) -> torch.Tensor:
    pooled = pooled.clone()
    pooled[-1, -1, -1, -1] -= 1
    return pooled


@pytest.mark.parametrize(
    ("name", "broken", "reported"),
    [
        ("roi_pool", "output", "cpu: float32, channels_last, rows, roi_pool: output differs from the reference\n"),
        ("multiscale_roi_pool", "argmax", "cpu: float16, contiguous, cells, multiscale_roi_pool: argmax differs from"),
    ],
)
def test_selftest_finds_kernels_that_are_wrong(monkeypatch, few_problems, capsys, name, broken, reported):
    kernel = getattr(roipool, name)

    def broken_kernel(*arguments, return_argmax=False, **keywords):
        if not return_argmax:
            return kernel(*arguments, **keywords)
        output, argmax = kernel(*arguments, return_argmax=True, **keywords)
        return (flip_last_value(output), argmax) if broken == "output" else (output, flip_last_value(argmax))

    monkeypatch.setattr(_selftest, name, broken_kernel)
    assert not _selftest.run_selftest()
    assert reported in capsys.readouterr().out


def test_selftest_finds_gradients_that_are_wrong(monkeypatch, few_problems, capsys):
    backward = reference.roi_pool_backward
    monkeypatch.setattr(reference, "roi_pool_backward", lambda *arguments: flip_last_value(backward(*arguments)))
    assert not _selftest.run_selftest()
    assert "roi_pool: gradient of map 0 differs" in capsys.readouterr().out


def test_selftest_fails_if_one_device_does(monkeypatch, few_problems, capsys):
    differences = {"cpu": ["argmax"], "meta": []}
    monkeypatch.setattr(_selftest, "list_devices", lambda: list(differences))
    monkeypatch.setattr(_selftest, "find_differences", lambda problem, device: (2, differences[device]))
    assert not _selftest.run_selftest()
    assert capsys.readouterr().out == (
        "cpu: argmax differs from the reference\n"
        "cpu: argmax differs from the reference\n"
        "cpu: 2 of 4 results have the bits of the reference\n"
        "meta: 4 of 4 results have the bits of the reference\n"
    )


def test_selftest_finds_results_in_another_memory_format(monkeypatch, few_problems, capsys):
    def make_contiguous(*arguments, **keywords):
        pooled = roipool.roi_pool(*arguments, **keywords)
        return tuple(part.contiguous() for part in pooled) if isinstance(pooled, tuple) else pooled.contiguous()

    monkeypatch.setattr(_selftest, "roi_pool", make_contiguous)
    assert not _selftest.run_selftest()
    out = capsys.readouterr().out
    assert "cpu: float32, channels_last, cells, roi_pool: output differs" in out
    assert "cpu: float32, contiguous" not in out


def test_selftest_tries_bad_boxes_also_where_they_are_detected(few_problems):
    with roipool.set_detect_bad_boxes(True):
        assert _selftest.run_selftest()
        assert roipool._ops.bad_boxes.is_detecting


def test_selftest_leaves_the_environment_as_it_was(monkeypatch, few_problems):
    monkeypatch.setenv("ROIPOOL_CPU_FORWARD", "rows")
    _selftest.run_selftest()
    assert os.environ["ROIPOOL_CPU_FORWARD"] == "rows"


def test_selftest_fails_by_its_exit_status(monkeypatch):
    from roipool import __main__ as main

    monkeypatch.setattr(main, "run_selftest", lambda: False)
    monkeypatch.setattr(sys, "argv", ["roipool", "--selftest"])
    with pytest.raises(SystemExit) as exit:
        main.main()
    assert exit.value.code == 1
