#include "build_info.h"

#include <torch/headeronly/version.h>

#include "cpu/simd/capability.h"
#include "huge_pages.h"

// Describe the CUDA kernels, which are a library of their own; setup.py defines both where it builds them.
#ifndef ROIPOOL_CUDA_VERSION
#define ROIPOOL_CUDA_VERSION nullptr
#define ROIPOOL_CUDA_ARCHITECTURES ""
#endif

#if defined(__clang__)
#define ROIPOOL_COMPILER "Clang " __clang_version__
#else
#define ROIPOOL_COMPILER "GCC " __VERSION__
#endif

namespace roipool {

BuildInfo build_info() {
  return {ROIPOOL_COMPILER,
          TORCH_VERSION,
          ROIPOOL_CUDA_VERSION,
          ROIPOOL_CUDA_ARCHITECTURES,
          cpu::simd::cpu_capability().name,
          may_ask_for_huge_pages()};
}

}  // namespace roipool
