"""Asserts what the native libraries need of others: torch's stable ABI, the C and C++ libraries, and no Python.

python .ci/check_libraries.py roipool
"""

import re
import subprocess
import sys
from pathlib import Path

import torch

# Declare torch's stable ABI.
SHIMS = ["csrc/stable/c/shim.h", "csrc/inductor/aoti_torch/c/shim.h"]
SYSTEM_LIBRARIES = {"libstdc++.so.6", "libgcc_s.so.1", "libm.so.6", "libc.so.6", "ld-linux-x86-64.so.2"}
TORCH_LIBRARIES = {"libroipool.so": "libtorch_cpu.so", "libroipool_cuda.so": "libtorch.so"}
# Names the newest versions of symbols in glibc and libstdc++ that each may ask for where it is built on Debian 12.
MOST = {
    "libroipool.so": {"GLIBC": "2.32", "GLIBCXX": "3.4.29", "CXXABI": "1.3.13"},
    "libroipool_cuda.so": {"GLIBC": "2.34", "GLIBCXX": "3.4.29", "CXXABI": "1.3.13"},  # 2.34 for cudart_static
}
MOST_BYTES = {"libroipool.so": 2_000_000, "libroipool_cuda.so": 20_000_000}


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def number(version: str) -> list[int]:
    return [int(part) for part in version.split(".")]


def check_symbols(library: Path, stable_abi: set[str]) -> None:
    lines = [line.split() for line in output("nm", "-D", "--undefined-only", str(library)).splitlines()]
    versioned = {name: name.partition("@")[2].split("_") for kind, name in lines if "@" in name}
    required = [name for kind, name in lines if kind == "U" and name not in versioned]
    python = [name for kind, name in lines if re.match("_?Py", name)]
    assert not python, f"{library.name} needs Python: {python}"
    foreign = [name for name in required if name not in stable_abi]
    assert not foreign, f"{library.name} needs symbols outside of torch's stable ABI, C and C++: {foreign}"
    newest = {}
    for system, most in MOST[library.name].items():
        versions = {name: version for name, (of, version) in versioned.items() if of == system}
        newest[system] = max(versions.values(), key=number)
        beyond = [name for name, version in versions.items() if number(version) > number(most)]
        assert not beyond, f"{library.name} needs more than {system} {most}: {beyond}"
    print(f"  {len(required)} symbols of torch's stable ABI; {newest}")
    is_cuda = "aoti_torch_get_current_cuda_stream" in required
    assert is_cuda == (library.name == "libroipool_cuda.so"), f"{library.name} is another library"


def check_library(library: Path, stable_abi: set[str]) -> None:
    size = library.stat().st_size
    print(f"{library.name}: {size / 1e6:.1f} MB")
    assert size < MOST_BYTES[library.name]
    needed = set(re.findall(r"NEEDED.*\[(.*)\]", output("readelf", "-d", str(library))))
    torch_library = TORCH_LIBRARIES[library.name]
    assert torch_library in needed, f"without {torch_library}, nothing would find the stable ABI"
    others = needed - SYSTEM_LIBRARIES - {torch_library}
    assert not others, f"{library.name} needs {sorted(others)}"
    check_symbols(library, stable_abi)


def main() -> None:
    include = Path(torch.__file__).parent / "include" / "torch"
    declarations = "".join((include / shim).read_text() for shim in SHIMS)
    stable_abi = set(re.findall(r"\b\w+(?=\s*\()", declarations))
    for name in MOST:
        check_library(Path(sys.argv[1], name), stable_abi)


if __name__ == "__main__":
    main()
