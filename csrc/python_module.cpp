// roipool._C: importing it loads libroipool with the operators; its attributes say what was built, which
// `python -m roipool` reads; level_bound() serves roipool/_ops/levels.py.
#include <pybind11/pybind11.h>

#include "build_info.h"
#include "geometry.h"

namespace py = pybind11;

// Declares that a free-threaded Python need not turn its lock on, as nothing in the library changes once it is loaded.
PYBIND11_MODULE(_C, m, py::mod_gil_not_used()) {
  const roipool::BuildInfo info = roipool::build_info();
  m.doc() = "The native half of roipool: the operators torch.ops.roipool.*, and what this build contains.";
  m.attr("compiler") = py::str(info.compiler).attr("strip")();  // Clang's ends with a space
  m.attr("built_with_torch") = info.torch_version;
  m.attr("cuda_version") = info.cuda_version;  // None for a null pointer
  m.attr("cuda_architectures") = py::str(info.cuda_architectures).attr("split")();
  m.attr("cpu_capability") = info.cpu_capability;
  m.attr("asks_for_huge_pages") = info.asks_for_huge_pages;
  m.def("level_bound", &roipool::level_bound,
        "Return the least area, in image pixels, that reaches a level of a pyramid, or NaN where none does.",
        py::arg("level"), py::arg("canonical_scale"), py::arg("canonical_level"), py::arg("rois_are_double"));
}
