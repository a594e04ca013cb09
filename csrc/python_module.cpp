// roipool._C: importing it loads the operators; its attributes say what was built. `python -m roipool` reads them.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#include "cpu/simd/capability.h"

namespace {

namespace py = pybind11;

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#else
  return "GCC " __VERSION__;
#endif
}

}  // namespace

// Declares that a free-threaded Python need not turn its lock on, as nothing in the library changes once it is loaded.
PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "The native half of roipool: the operators torch.ops.roipool.*, and what this build contains.";
  m.attr("compiler") = compiler();
  m.attr("built_with_torch") = TORCH_VERSION;
  // Two definitions describe the CUDA kernels, which are a library of their own; setup.py makes both.
#ifdef ROIPOOL_CUDA_VERSION
  m.attr("cuda_version") = ROIPOOL_CUDA_VERSION;
  m.attr("cuda_architectures") = py::str(ROIPOOL_CUDA_ARCHITECTURES).attr("split")();
#else
  m.attr("cuda_version") = py::none();
  m.attr("cuda_architectures") = py::list();
#endif
  m.attr("cpu_capability") = roipool::cpu::simd::cpu_capability().name;
}
