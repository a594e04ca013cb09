// roipool._C: importing it loads the operators; its attributes say what was built. Read by `python -m roipool`.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include <string>

#include "cpu/simd/capability.h"

namespace {

namespace py = pybind11;

std::string compiler() {
#if defined(__clang__)
  return "Clang " __clang_version__;
#elif defined(__GNUC__)
  return "GCC " __VERSION__;
#elif defined(_MSC_VER)
  return "MSVC " + std::to_string(_MSC_VER);
#else
  return "unknown";
#endif
}

}  // namespace

// Nothing in the library changes once it is loaded, so a free-threaded Python need not turn its lock on for it.
PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  m.doc() = "The native half of roipool: the operators torch.ops.roipool.*, and what this build contains.";
  m.attr("compiler") = compiler();
  m.attr("built_with_torch") = TORCH_VERSION;
  // The CUDA kernels are a library of their own, which setup.py describes by these two where it builds it.
#ifdef ROIPOOL_CUDA_VERSION
  m.attr("cuda_version") = ROIPOOL_CUDA_VERSION;
  m.attr("cuda_architectures") = py::str(ROIPOOL_CUDA_ARCHITECTURES).attr("split")();
#else
  m.attr("cuda_version") = py::none();
  m.attr("cuda_architectures") = py::list();
#endif
  m.attr("cpu_capability") = roipool::cpu_capability().name;
}
