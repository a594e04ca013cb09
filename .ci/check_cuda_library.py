"""Asserts what the CUDA library needs of others, and that it is not too large.

python .ci/check_cuda_library.py roipool/_C_cuda*.so
"""

import re
import subprocess
import sys
from pathlib import Path

import torch

# torch's stable ABI, by the headers that declare it
SHIMS = ["csrc/stable/c/shim.h", "csrc/inductor/aoti_torch/c/shim.h"]
LIBRARIES = {"libtorch.so", "libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}
LIBC = r"@(GLIBC|GLIBCXX|CXXABI|GCC)_[\d.]+$"
MOST_BYTES = 20_000_000


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    library = Path(sys.argv[1])
    include = Path(torch.__file__).parent / "include" / "torch"
    declared = set(re.findall(r"\b\w+(?=\s*\()", "".join((include / shim).read_text() for shim in SHIMS)))

    lines = [line.split() for line in output("nm", "-D", "--undefined-only", str(library)).splitlines()]
    required = [name for kind, name in lines if kind == "U"]
    foreign = [name for name in required if not re.search(LIBC, name) and name not in declared]
    assert not foreign, f"symbols outside torch's stable ABI and the C and C++ libraries: {foreign}"
    stable = [name for name in required if name in declared]
    assert "aoti_torch_get_current_cuda_stream" in stable, "this is not the CUDA library"

    needed = set(re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", str(library))))
    assert "libtorch.so" in needed, "without libtorch.so, nothing would find the stable ABI"
    assert needed <= LIBRARIES, f"it needs {sorted(needed - LIBRARIES)}"

    size = library.stat().st_size
    assert size < MOST_BYTES, f"{size} bytes"
    print(f"{library.name}: {size / 1e6:.1f} MB; symbols of the stable ABI that it takes from torch:")
    print(*stable, sep="\n")


if __name__ == "__main__":
    main()
