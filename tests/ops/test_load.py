"""A native library that is missing or broken, and the instruction set that is chosen at import."""

import os
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

import roipool

MODULE = Path(roipool._C.__file__)


def import_with(folder: Path, libraries: dict[str, bytes]) -> str:
    """Returns what an import of a copy of roipool says last, whose libraries have this content."""
    package = folder / "roipool"
    source = Path(roipool.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("*.so", "*.pyd", "__pycache__"))
    for name, content in libraries.items():
        (package / name).write_bytes(content)
    # -S leaves out the import hook of an editable install, which would find the library after all.
    paths = [str(folder), *site.getsitepackages()]
    run = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = {paths}; import roipool"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert run.returncode != 0
    return run.stderr.strip().splitlines()[-1]


FAULTS = {
    "no module": ({}, "No module named 'roipool._C'"),
    "an empty module": ({MODULE.name: b""}, "file too short"),
    "a broken module": ({MODULE.name: b"not a library" * 100}, "invalid ELF header"),
    "no library": ({MODULE.name: MODULE.read_bytes()}, "libroipool.so: cannot open shared object file"),
    "a broken library": (
        {MODULE.name: MODULE.read_bytes(), "libroipool.so": b"not a library" * 100},
        "invalid ELF header",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_import_fails_with_reason_and_remedy(tmp_path, fault):
    libraries, reason = FAULTS[fault]
    error = import_with(tmp_path, libraries)
    assert error.startswith("ImportError: roipool's native library is missing or does not load (")
    assert reason in error
    assert error.endswith("): reinstall roipool from where you installed it")


def test_import_fails_with_the_remedy_of_a_checkout(tmp_path):
    (tmp_path / "setup.py").touch()
    error = import_with(tmp_path, {})
    assert "): this is a checkout of the source, so build it here with `pip install --no-build-isolation -e .`" in error


def test_capability_that_is_none_is_refused_at_import():
    environment = {**os.environ, "ROIPOOL_CPU_CAPABILITY": "sse9"}
    run = subprocess.run(
        [sys.executable, "-c", "import roipool"], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode != 0
    assert "ROIPOOL_CPU_CAPABILITY must be one that this processor has (default" in run.stderr.splitlines()[-1]


@pytest.mark.parametrize("capability", ["default", roipool._C.cpu_capability])
def test_capability_can_be_chosen(capability):
    environment = {**os.environ, "ROIPOOL_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", "import roipool; print(roipool._C.cpu_capability)"]
    assert subprocess.run(command, capture_output=True, text=True, env=environment).stdout.strip() == capability
