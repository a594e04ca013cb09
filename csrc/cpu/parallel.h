#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <new>

#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

#include "ops/operators.h"

namespace roipool {
namespace {

// What ThreadSanitizer is told, which does not see what torch's OpenMP, built without it, puts in order.
#if defined(__SANITIZE_THREAD__)
void acquire(void* at) { __tsan_acquire(at); }
void release(void* at) { __tsan_release(at); }
#else
void acquire(void*) {}
void release(void*) {}
#endif

// The body of a parallel loop. Threads see what was done before it, and what they do is seen by what follows.
template <typename Function>
struct Body {
  const Function& function;
  mutable std::atomic<bool> out_of_memory{false};
  mutable char fork = 0;
  mutable char join = 0;

  void operator()(int64_t begin, int64_t end) const {
    acquire(&fork);
    try {
      function(begin, end);
    } catch (const std::bad_alloc&) {
      out_of_memory = true;
    }
    release(&join);
  }
};

// torch's, of which an exception comes back as an error that names no cause: here, a lack of memory stays one.
template <typename Function>
void parallel_for(int64_t begin, int64_t end, int64_t grain, const Function& function) {
  const Body<Function> body{function};
  release(&body.fork);
  torch::stable::parallel_for(begin, end, grain, body);
  acquire(&body.join);
  if (body.out_of_memory) {
    throw std::bad_alloc();
  }
}

// Work, in elements, below which another thread costs more than it saves.
constexpr int64_t kGrain = 16384;

int64_t grain_of(int64_t elements_per_task) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task));
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace
}  // namespace roipool
