// Asks the system for huge pages under large results and scratch memory.
//
// Fresh memory is cleared by the system page by page as it is first written to: 50 MB take 20 ms in pages of 4 KiB, and
// 5 ms in pages of 2 MiB, which is longer than pooling them.
#pragma once

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace roipool {

constexpr uintptr_t kHugePageBytes = 2 << 20;

// Counts the bytes from which on memory lies in huge pages: below, its ends that fill no huge page are most of it.
constexpr int64_t kMinHugePagedBytes = 4 << 20;

// Returns whether the user lets the library ask: ROIPOOL_HUGE_PAGES=0 says no, for processes that must not grow by
// whole huge pages.
inline bool may_ask_for_huge_pages() {
  static const bool may_ask = [] {
    const char* setting = std::getenv("ROIPOOL_HUGE_PAGES");
    return setting == nullptr || std::strcmp(setting, "0") != 0;
  }();
  return may_ask;
}

// Asks for huge pages in memory that has not been written to. It is but advice, which a system may not know or take, so
// that failure means nothing.
inline void advise_huge_pages(void* memory, int64_t num_bytes) {
#if defined(MADV_HUGEPAGE)
  if (num_bytes < kMinHugePagedBytes || !may_ask_for_huge_pages()) {
    return;
  }
  const auto address = reinterpret_cast<uintptr_t>(memory);
  const uintptr_t offset = -address % kHugePageBytes;  // of the first whole huge page
  const uintptr_t length = (static_cast<uintptr_t>(num_bytes) - offset) / kHugePageBytes * kHugePageBytes;
  static_cast<void>(madvise(static_cast<char*>(memory) + offset, length, MADV_HUGEPAGE));
#else
  static_cast<void>(memory);
  static_cast<void>(num_bytes);
#endif
}

}  // namespace roipool
