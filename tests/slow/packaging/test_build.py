"""setup.py says one clear sentence where something is missing or broken. build_cases.sh builds whole wheels."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

import roipool

CHECKOUT = Path(__file__).parents[3]
if not (CHECKOUT / "setup.py").exists():
    pytest.skip("without setup.py, nothing can be built", allow_module_level=True)

# These change a build, and may be set where the tests run.
SETTINGS = {"CC", "CXX", "CUDA_HOME", "FORCE_CUDA", "ROIPOOL_CUDA", "ROIPOOL_SANITIZE", "TORCH_CUDA_ARCH_LIST"}


def setup(*arguments: str | Path, folder: Path = CHECKOUT, **environment: str | Path) -> subprocess.CompletedProcess:
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return subprocess.run(
        [sys.executable, "setup.py", "-q", *arguments],
        env={**kept, **{name: str(value) for name, value in environment.items()}},
        cwd=folder,
        capture_output=True,
        text=True,
    )


def error(*arguments: str | Path, **environment: str | Path) -> str:
    """Returns the last line that the user sees."""
    run = setup(*arguments, **environment)
    assert run.returncode != 0, f"there is no error: {run.stdout}"
    return run.stderr.rstrip().splitlines()[-1]


def test_changelog_has_the_version():
    versions = re.findall(r"^## (\d\S*)", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[0] == roipool.__version__


# ---- Python packages.


def fake_packages(folder: Path, **versions: str) -> Path:
    """Makes as much of torch, pybind11 and setuptools as setup.py looks at before it builds anything."""
    for name, version in {"torch": "3.0", "pybind11": "4.0", "setuptools": "100.0", **versions}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"__version__ = {version!r}\nsetup = None\n")
    (folder / "torch" / "utils").mkdir()
    (folder / "torch" / "utils" / "cpp_extension.py").write_text("BuildExtension = CppExtension = object\n")
    return folder


@pytest.mark.parametrize("name", ["torch", "pybind11"])
def test_no_such_package(tmp_path, name):
    packages = fake_packages(tmp_path)
    (packages / name / "__init__.py").write_text(f"raise ModuleNotFoundError(\"No module named '{name}'\")")
    assert error("--version", PYTHONPATH=packages) == (
        f"roipool cannot be built here: No module named '{name}' (`pip install torch pybind11 ninja`, or leave out "
        "--no-build-isolation, and pip brings what the build needs)"
    )


@pytest.mark.parametrize(("name", "old"), [("torch", "2.9.1+cpu"), ("pybind11", "2.12.9"), ("setuptools", "76.1.0")])
def test_package_that_is_too_old(tmp_path, name, old):
    needed = re.search(rf'"{name}>=([\d.]+)"', (CHECKOUT / "pyproject.toml").read_text())[1]
    packages = fake_packages(tmp_path / "old", **{name: old})
    sentence = f"roipool needs {name} {needed} or newer, and found {old} in {packages / name}"
    assert error("--version", PYTHONPATH=packages) == sentence
    packages = fake_packages(tmp_path / "oldest", **{name: f"{needed}.0a0+git1234"})
    assert "or newer" not in error("--version", PYTHONPATH=packages)  # it fails for want of a real torch


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_other_systems(tmp_path, platform):
    packages = fake_packages(tmp_path)
    (packages / "torch" / "__init__.py").write_text(f"import sys\nsys.platform = {platform!r}\n__version__ = '3.0'")
    assert error("--version", PYTHONPATH=packages) == (
        f"roipool needs Linux, and this is {platform}: on Windows, build it in WSL; elsewhere, in a container"
    )


# ---- Compilers.


@pytest.mark.parametrize("compiler", [None, "", "/nonexistent/c++", "nonexistent-ccache c++"])
def test_no_compiler(tmp_path, compiler):
    name = "c++" if compiler is None else compiler
    chosen = {"PATH": tmp_path} if compiler is None else {"CXX": compiler}
    command = ["build_ext", "--build-temp", tmp_path, "--build-lib", tmp_path]
    assert error(*command, ROIPOOL_CUDA="0", **chosen) == (
        f"roipool needs a C++ compiler, and {name!r} is not there: install one, or set CXX"
    )


def fake_nvcc(home: Path, script: str) -> Path:
    nvcc = home / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(f"#!/bin/sh\n{script}\n")
    nvcc.chmod(0o755)
    return nvcc


WORKING_NVCC = 'echo "_HERE_=${0%/*}"; echo release 13.0, V13.0.1; echo compute_75 compute_90'
BROKEN = {  # a script, and what the error says
    "fails": ("exit 1", "nothing"),
    "prints nonsense": ("echo; echo what do you; echo mean", "what do you mean"),
    "does not start": ("#", "Exec format error"),
}


@pytest.fixture
def packages(tmp_path):
    """Imports faster than the real packages, and is enough to look for nvcc with."""
    return fake_packages(tmp_path / "packages")


@pytest.mark.parametrize("where", ["CUDA_HOME", "PATH"])
@pytest.mark.parametrize("fault", BROKEN)
def test_broken_nvcc_is_an_error(tmp_path, packages, fault, where):
    script, said = BROKEN[fault]
    nvcc = fake_nvcc(tmp_path, script)
    if fault == "does not start":
        nvcc.write_bytes(b"\x7fELF")
    place = {"CUDA_HOME": tmp_path} if where == "CUDA_HOME" else {"PATH": f"{nvcc.parent}:{os.environ['PATH']}"}
    asked = "--version" if where == "CUDA_HOME" else "--dryrun -x cu /dev/null"
    for force in ["0", "1"]:
        sentence = error("--version", PYTHONPATH=packages, FORCE_CUDA=force, **place)
        assert sentence.startswith(f"roipool's CUDA kernels need an nvcc that works, and `{nvcc} {asked}` says: ")
        assert said in sentence
        assert sentence.endswith(" (ROIPOOL_CUDA=0 leaves them out)")


@pytest.mark.parametrize(
    ("script", "asked"),
    [
        ("echo _HERE_=/nonexistent", "/nonexistent/nvcc --version"),
        (WORKING_NVCC.replace("release", "version"), "{nvcc} --version"),
        (WORKING_NVCC.replace("compute", "sm"), "{nvcc} --list-gpu-arch"),
    ],
)
def test_every_answer_of_nvcc_is_checked(tmp_path, packages, script, asked):
    nvcc = fake_nvcc(tmp_path / "cuda", script)
    sentence = error("--version", PYTHONPATH=packages, PATH=f"{nvcc.parent}:{os.environ['PATH']}")
    assert f"`{asked.format(nvcc=nvcc)}` says: " in sentence


def test_force_cuda_without_nvcc(tmp_path, packages):
    def missing(**environment):
        return error("--version", PYTHONPATH=packages, FORCE_CUDA="1", **environment)

    sentence = "FORCE_CUDA=1 asks for roipool's CUDA kernels, but there is no nvcc "
    assert missing(PATH=tmp_path) == sentence + "on PATH, and CUDA_HOME is not set"
    nvcc = fake_nvcc(tmp_path / "cuda", WORKING_NVCC)
    for path in [tmp_path, nvcc.parent]:  # CUDA_HOME comes before PATH
        assert missing(PATH=path, CUDA_HOME=tmp_path) == sentence + f"in CUDA_HOME, {tmp_path}"


@pytest.mark.parametrize(
    ("script", "environment"),
    [(None, {}), ("exit 1", {"ROIPOOL_CUDA": "0"}), (WORKING_NVCC, {"FORCE_CUDA": "1"})],
    ids=["no nvcc", "a broken nvcc and ROIPOOL_CUDA=0", "an nvcc that works"],
)
def test_no_error(tmp_path, script, environment):
    path = fake_nvcc(tmp_path, script).parent if script else tmp_path
    run = setup("--version", PATH=path, **environment)
    assert run.stdout.strip() == roipool.__version__, run.stderr


# ---- The source tree.


def test_a_wheel_is_built_outside_the_tree(tmp_path):
    """The tree may be read-only, used by another build, or hold a module of an older version."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ["LICENSE", "README.md", "pyproject.toml", "setup.py"]:
        shutil.copy(CHECKOUT / name, tree)
    for name in ["csrc", "roipool"]:
        shutil.copytree(CHECKOUT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    left_behind = tree / "build" / f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}" / "roipool"
    left_behind.mkdir(parents=True)
    (left_behind / "removed.py").touch()
    before = sorted(tree.rglob("*"))

    assert setup("egg_info", folder=tree, ROIPOOL_CUDA="0").returncode == 0  # pip asks for this first
    command = ["build_py", "bdist_wheel", "--skip-build", "--dist-dir", tmp_path / "dist"]
    run = setup(*command, folder=tree, ROIPOOL_CUDA="0")
    assert run.returncode == 0, run.stderr
    assert sorted(tree.rglob("*")) == before
    (wheel,) = (tmp_path / "dist").iterdir()
    modules = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert modules == {str(path.relative_to(tree)) for path in (tree / "roipool").rglob("*.py")}
