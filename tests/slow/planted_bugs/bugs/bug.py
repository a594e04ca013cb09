"""What a planted bug is, the files that it is planted in, and the tests that should find it."""

from typing import NamedTuple

# Which tests should find a bug, the quickest first.
GOLDEN = "tests/kernels/test_golden.py"
AGAINST_REFERENCE = "tests/kernels/test_against_reference.py"
EDGE_CASES = "tests/kernels/test_edge_cases.py"
FORWARD_WAYS = "tests/kernels/test_forward_ways.py"
EACH_WAY = "tests/kernels/test_each_cpu_way.py"
CPP_PROGRAMS = "tests/kernels/test_cpp_programs.py"
DETERMINISM = "tests/kernels/test_determinism.py"
KERNELS_MULTISCALE = "tests/kernels/test_multiscale.py"
CHECKED = "tests/ops/test_checks.py"
FAKE = "tests/ops/test_fake.py"
OUT = "tests/ops/test_out.py"
MISUSE = "tests/ops/test_misuse.py"
AUTOGRAD = "tests/ops/test_autograd.py"
FUNC = "tests/ops/test_func.py"
COMPILE = "tests/ops/test_compile.py"
MULTISCALE_CHECKS = "tests/ops/test_multiscale_checks.py"
MULTISCALE_AUTOGRAD = "tests/ops/test_multiscale_autograd.py"
FUNCTIONAL = "tests/api/test_functional.py"
MODULES = "tests/api/test_modules.py"
TEST_ARGUMENTS = "tests/api/test_arguments.py"
TEST_SUBCLASSES = "tests/api/test_subclasses.py"
BAD_BOXES = "tests/api/test_bad_boxes.py"
MULTISCALE = "tests/api/test_multiscale.py"
PYTORCH = "tests/api/test_pytorch.py"
ONNX = "tests/api/test_onnx.py"
MXNET = "tests/api/test_mxnet.py"
REFERENCE = "tests/api/test_reference.py"
SWITCHES = "tests/api/test_main.py::test_switches"
SELFTEST = "tests/api/test_main.py::test_selftest"

KERNELS = (GOLDEN, AGAINST_REFERENCE, EDGE_CASES, FORWARD_WAYS, EACH_WAY, DETERMINISM)
LEVELS = (
    f"{KERNELS_MULTISCALE}::test_levels_are_those_of_torchvision",
    f"{KERNELS_MULTISCALE}::test_level_of_a_box",
    KERNELS_MULTISCALE,
)
CHECKS = (f"{CHECKED}::test_misuse_is_one_clear_error", f"{MULTISCALE_CHECKS}::test_misuse_is_one_clear_error")
FORMATS = (f"{FAKE}::test_fake_and_native_strides_agree", OUT, *KERNELS[1:])
DERIVATIVES = (AUTOGRAD, FUNC, MULTISCALE_AUTOGRAD, PYTORCH)
PARTS = f"{FORWARD_WAYS}::test_regions_that_cover_little_of_the_maps"
ARGUMENTS = (FUNCTIONAL, f"{MULTISCALE}::test_misuse_of_the_function")
SUBCLASSES = (f"{PYTORCH}::test_subclass_of_tensor", f"{MULTISCALE}::test_subclass_of_tensor")


class Bug(NamedTuple):
    name: str
    path: str
    pattern: str  # found just once
    replacement: str
    tests: tuple[str, ...]
    on_cuda_host: bool = False  # whether the CUDA kernels, executed on the host, have it as well: found there, too


# ---- The files that bugs are planted in.

GEOMETRY, PROBLEM, DTYPES = "csrc/geometry.h", "csrc/problem.h", "csrc/dtypes.h"
CHECKS_H, TENSORS_H, OPERATORS_H = "csrc/ops/checks.h", "csrc/ops/tensors.h", "csrc/ops/operators.h"
REGIONS, WRITER = "csrc/cpu/regions.h", "csrc/cpu/streaming_writer.h"
PARTS_H = "csrc/cpu/region_parts.h"
GROUPS, PACKED_MAPS = "csrc/cpu/channel_groups.h", "csrc/cpu/forward_packed_maps.h"
FORWARD, POOL_CELLS = "csrc/cpu/forward.cpp", "csrc/cpu/simd/pool_cells.h"
ROW_FORWARD, FORWARD_PLAN = "csrc/cpu/forward_rows.h", "csrc/cpu/forward.h"
BACKWARD, BACKWARD_PLAN = "csrc/cpu/backward.cpp", "csrc/cpu/backward.h"
ORDER, PACK, UNPACK = "csrc/cpu/simd/order.h", "csrc/cpu/simd/pack.h", "csrc/cpu/simd/unpack.h"
POOL_BINS, POOL_ROWS = "csrc/cpu/simd/pool_bins.h", "csrc/cpu/simd/pool_rows.h"
FAKE_PY, CHECKS_PY, OUT_PY = "roipool/_ops/fake.py", "roipool/_ops/checks.py", "roipool/_ops/out.py"
FUNCTIONS, VMAP = "roipool/_ops/autograd.py", "roipool/_ops/vmap.py"
SCRIPT_PY, ARGUMENTS_PY = "roipool/_ops/script.py", "roipool/_ops/arguments.py"
LEVELS_PY, SUBCLASSES_PY, BAD_BOXES_PY = (
    "roipool/_ops/levels.py",
    "roipool/_ops/subclasses.py",
    "roipool/_ops/bad_boxes.py",
)
CALL, MODULE = "roipool/functional.py", "roipool/modules.py"
MAIN_PY, SELFTEST_PY = "roipool/__main__.py", "roipool/_selftest.py"
MXNET_PY, ONNX_PY, REFERENCE_PY = "roipool/mxnet.py", "roipool/onnx.py", "roipool/reference.py"
