#include "cpu/simd/capability.h"

#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

namespace roipool::cpu::simd {
namespace {

// Returns the capabilities of this processor, the best one last.
std::vector<CpuCapability> supported_capabilities() {
  std::vector<CpuCapability> capabilities = {{"default", &kLoopsDefault}};
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
    capabilities.push_back({"avx2", &kLoopsAvx2});
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl")) {
      capabilities.push_back({"avx512", &kLoopsAvx512});
    }
  }
#endif
  return capabilities;
}

CpuCapability choose() {
  const std::vector<CpuCapability> capabilities = supported_capabilities();
  const char* asked = std::getenv("ROIPOOL_CPU_CAPABILITY");
  if (asked == nullptr) {
    return capabilities.back();
  }
  std::string names;
  for (const CpuCapability& capability : capabilities) {
    if (asked == std::string(capability.name)) {
      return capability;
    }
    names += (names.empty() ? "" : ", ") + std::string(capability.name);
  }
  throw std::runtime_error("ROIPOOL_CPU_CAPABILITY must be one that this processor has (" + names + "), got " + asked);
}

}  // namespace

const CpuCapability& cpu_capability() {
  static const CpuCapability chosen = choose();
  return chosen;
}

}  // namespace roipool::cpu::simd
