// Shares out loops to the threads of the program that the library is loaded in.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <exception>

#include "arithmetic.h"

namespace roipool::cpu {

// ---- What the program provides: torch's threads, in register.cpp.

int64_t num_threads();

using LoopFunction = void (*)(const void* context, int64_t begin, int64_t end);

// Calls body(context, begin, end) in parallel for ranges begin .. end-1 that make up 0 .. size-1, of at least `grain`
// indices each. Threads see what was done before the loop, and what they do is seen by what follows it. The body throws
// nothing.
void run_loop(int64_t size, int64_t grain, LoopFunction body, const void* context);

// ---- What the kernels use.

// Calls the function of a parallel loop for one range after the other. No exception leaves a thread: the first one is
// kept.
template <typename Function>
struct LoopBody {
  const Function& function;
  mutable std::atomic<bool> has_failed{false};
  mutable std::exception_ptr exception{};

  static void call(const void* context, int64_t begin, int64_t end) {
    const auto& body = *static_cast<const LoopBody*>(context);
    try {
      body.function(begin, end);
    } catch (...) {
      if (!body.has_failed.exchange(true)) {
        body.exception = std::current_exception();
      }
    }
  }
};

// Calls function(begin, end) in parallel for ranges begin .. end-1 that make up 0 .. size-1, of at least `grain`
// indices each. Throws what the function throws.
template <typename Function>
void parallel_for(int64_t size, int64_t grain, const Function& function) {
  const LoopBody<Function> body{function};
  run_loop(size, grain, &LoopBody<Function>::call, &body);
  if (body.exception) {
    std::rethrow_exception(body.exception);
  }
}

// Counts the nanoseconds of work below which a thread costs more than it saves: a fork and a join take some 10 us, and
// milliseconds where other processes keep the cores busy.
constexpr double kMinThreadNanoseconds = 100e3;

// Returns the most threads that work pays for, by how long it takes on one.
inline int64_t max_threads_for(double nanoseconds) {
  constexpr double kEnough = 1e6;
  return static_cast<int64_t>(std::max(1.0, std::min(nanoseconds / kMinThreadNanoseconds, kEnough)));
}

// Returns the grain of a loop over so many tasks, by how long they take together on one thread.
inline int64_t grain_of(int64_t num_tasks, double nanoseconds) {
  return std::max<int64_t>(1, divide_up(num_tasks, max_threads_for(nanoseconds)));
}

}  // namespace roipool::cpu
