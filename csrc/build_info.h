// Says what a build of the library contains, and what it does on this machine. `python -m roipool` prints it.
#pragma once

namespace roipool {

struct BuildInfo {
  const char* compiler;
  const char* torch_version;       // of the torch that it was built beside; it runs on others as well
  const char* cuda_version;        // null where no CUDA kernels were built
  const char* cuda_architectures;  // with spaces between them
  const char* cpu_capability;      // of the loops that run on this processor
  bool asks_for_huge_pages;        // under large results
};

// Throws std::runtime_error as cpu_capability() does.
__attribute__((visibility("default"))) BuildInfo build_info();

}  // namespace roipool
