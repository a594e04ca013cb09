"""Asserts what is in a wheel, and that its libraries need no more than torch 2.10 and what manylinux has; and, given
others, that they are the same: that of the source distribution, and that of a checkout.

pip install auditwheel torch-abi-audit && python .ci/check_wheel.py dist/roipool-*.whl [other/roipool-*.whl]
"""

import json
import re
import subprocess
import sys
import tempfile
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any

FILES = {
    "roipool/__init__.py",
    "roipool/__main__.py",
    "roipool/_C.pyi",
    "roipool/_C.so",
    "roipool/_ops/__init__.py",
    "roipool/_ops/arguments.py",
    "roipool/_ops/autograd.py",
    "roipool/_ops/bad_boxes.py",
    "roipool/_ops/checks.py",
    "roipool/_ops/fake.py",
    "roipool/_ops/levels.py",
    "roipool/_ops/load.py",
    "roipool/_ops/out.py",
    "roipool/_ops/script.py",
    "roipool/_ops/subclasses.py",
    "roipool/_ops/torch_private.py",
    "roipool/_ops/vmap.py",
    "roipool/_selftest.py",
    "roipool/distributed.py",
    "roipool/functional.py",
    "roipool/include/roipool/ops.h",
    "roipool/libroipool.so",
    "roipool/libroipool_cuda.so",
    "roipool/modules.py",
    "roipool/mxnet.py",
    "roipool/onnx.py",
    "roipool/py.typed",
    "roipool/reference.py",
    "roipool/share/cmake/roipool/roipoolConfig.cmake",
    "roipool/share/cmake/roipool/roipoolConfigVersion.cmake",
    "roipool/torchvision.py",
}
METADATA = {"LICENSE", "METADATA", "RECORD", "WHEEL", "top_level.txt"}
BUILD_FACTS = {"RECORD", "WHEEL"}
TORCH_LIBRARIES = {"libtorch.so", "libtorch_cpu.so"}


def report(*command: str) -> Any:
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def names_in(wheel: zipfile.ZipFile) -> list[str]:
    return sorted(name for name in wheel.namelist() if not name.endswith("/"))


def check_files(path: str) -> None:
    with zipfile.ZipFile(path) as wheel:
        names = names_in(wheel)
        metadata = Parser().parsestr(wheel.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert required == ["torch>=2.10"], f"the wheel requires {required}, not just torch>=2.10"

    files = {re.sub(r"\.(cpython|cp|abi3)[^/]*\.so$", ".so", name) for name in names if ".dist-info/" not in name}
    assert files == FILES, f"missing: {sorted(FILES - files)}, unexpected: {sorted(files - FILES)}"
    described = {Path(name).name for name in names if ".dist-info/" in name}
    assert described == METADATA, f"missing: {sorted(METADATA - described)}, unexpected: {sorted(described - METADATA)}"
    print(f"{Path(path).name}: {len(names)} files, {sum(Path(n).suffix == '.so' for n in names)} libraries")


def check_torch_abi(path: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        zipfile.ZipFile(path).extractall(folder)
        package = report("torch-abi-audit", "--json", "--check", "torch", f"{folder}/roipool")
    libraries = [*package["extensions"], *package["bundled_libs"]]
    audited = {Path(library["path"]).name.split(".")[0]: library["torch"] for library in libraries}
    assert set(audited) == {"_C", "libroipool", "libroipool_cuda"}, f"libraries that were audited: {libraries}"
    assert not audited.pop("_C")["uses_torch"], "roipool._C needs torch itself"
    for library, torch in audited.items():
        assert torch["stable"], f"{library}: not stable, or without torch: {torch['unstable_symbols']}"
        assert not torch["unknown_shim_symbols"], f"{library}: {torch['unknown_shim_symbols']}"
        assert torch["min_torch_version"] == "2.10.0", f"{library}: torch {torch['min_torch_version']}"
    print("torch's stable ABI only, of torch 2.10.0")


def check_system(path: str) -> None:
    facts = report("auditwheel", "show", "--json", path)
    needed = set(facts["external_libs"])
    assert needed == TORCH_LIBRARIES, f"it needs {sorted(needed)}, not just {sorted(TORCH_LIBRARIES)}"
    assert not facts["unsupported_isa"], "it does not run on every x86-64 processor"
    # The C++ library and glibc of the machine that built it decide which.
    assert facts["sym_tag"].startswith("manylinux_"), f"{facts['sym_tag']}: {facts['versioned_symbols']}"
    print(f"but for torch, {facts['sym_tag']}")


def check_same(path: str, other: str) -> None:
    """But for machine code, which holds the path of torch's headers, and what lists the rest or says what built it."""
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(other) as b:
        assert names_in(a) == names_in(b), f"{sorted(set(names_in(a)) ^ set(names_in(b)))}"
        compared = [name for name in names_in(a) if Path(name).suffix != ".so" and Path(name).name not in BUILD_FACTS]
        different = [name for name in compared if a.read(name) != b.read(name)]
    assert not different, f"{path} and {other} differ in {different}"
    print(f"the same as {other}: {len(compared)} files")


def main() -> None:
    path, *others = sys.argv[1:]
    check_files(path)
    check_torch_abi(path)
    check_system(path)
    for other in others:
        check_same(path, other)


if __name__ == "__main__":
    main()
