// One binary for every CPU: functions marked ROIPOOL_SIMD are compiled once per level, and the loader picks one.
#pragma once

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define ROIPOOL_SIMD __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define ROIPOOL_HAS_SIMD_LEVELS 1
#else
#define ROIPOOL_SIMD
#define ROIPOOL_HAS_SIMD_LEVELS 0
#endif

namespace roipool {

// Named after the level's widest vectors; "baseline" is what the compiler targets without being asked.
inline const char* simd_level() {
#if ROIPOOL_HAS_SIMD_LEVELS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("x86-64-v4")) {
    return "avx512 (x86-64-v4)";
  }
  if (__builtin_cpu_supports("x86-64-v3")) {
    return "avx2 (x86-64-v3)";
  }
#endif
  return "baseline";
}

}  // namespace roipool
