"""Asserts what is in a wheel: its requirements and its files.

python .ci/check_wheel.py dist/roipool-*.whl
"""

import re
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

FILES = {
    "roipool/__init__.py",
    "roipool/__main__.py",
    "roipool/_C.pyi",
    "roipool/_C.so",
    "roipool/_C_cuda.so",
    "roipool/_library.py",
    "roipool/autograd.py",
    "roipool/distributed.py",
    "roipool/functional.py",
    "roipool/modules.py",
    "roipool/mxnet.py",
    "roipool/onnx.py",
    "roipool/py.typed",
    "roipool/reference.py",
    "roipool/vmap.py",
}
METADATA = {"LICENSE", "METADATA", "RECORD", "WHEEL", "top_level.txt"}


def main() -> None:
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        names = wheel.namelist()
        metadata = Parser().parsestr(wheel.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    required = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert required == ["torch>=2.10"], f"the wheel requires {required}, not just torch>=2.10"

    files = {re.sub(r"\.(cpython|cp|abi3)[^/]*\.so$", ".so", name) for name in names if ".dist-info/" not in name}
    assert files == FILES, f"missing: {sorted(FILES - files)}, unexpected: {sorted(files - FILES)}"
    described = {Path(name).name for name in names if ".dist-info/" in name}
    assert described == METADATA, f"missing: {sorted(METADATA - described)}, unexpected: {sorted(described - METADATA)}"
    print(f"{Path(sys.argv[1]).name}: {len(names)} files, {sum(Path(n).suffix == '.so' for n in names)} libraries")


if __name__ == "__main__":
    main()
