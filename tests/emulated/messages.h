// What the operators in one process say to the kernels in another, which may be of another processor.
//
// A request is followed by the tensors that the kernels read, and answered by those that they write: see the visits
// below. Both processes have the same structs, since both processors have 64 bits and store the low byte first.
#pragma once

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "problem.h"

namespace roipool::emulated {

enum class Kernel : int64_t { kForward, kBackward, kGather };

// Holds tensors of the shape of the output.
struct PooledTensors {
  void* values;     // output, or grad_output in the backward
  int32_t* argmax;  // null where the forward records none
};

struct Request {
  Kernel kernel;
  char forward_way[32];  // ROIPOOL_CPU_FORWARD, or nothing
  RoIPoolProblem problem;
  PooledTensors pooled;
};

static_assert(std::is_trivially_copyable_v<Request>);

inline int64_t bytes_of_elements(const RoIPoolProblem& problem, int64_t num_elements) {
  return with_dtype(problem.dtype, [&](auto zero) { return num_elements * static_cast<int64_t>(sizeof(zero)); });
}

inline int64_t bytes_of_maps(const RoIPoolProblem& problem, const FeatureMaps& maps) {
  return bytes_of_elements(problem, problem.num_images * maps.image_stride);
}

// Counts the elements of the output.
inline int64_t num_pooled(const RoIPoolProblem& problem) { return problem.num_rois * problem.output_region_stride; }

// Calls visit(pointer, bytes) for each tensor that the kernels read: a reference to its pointer in the request.
template <typename Visit>
void visit_what_is_read(Request& request, const Visit& visit) {
  RoIPoolProblem& problem = request.problem;
  visit(problem.rois, problem.num_rois * 5 * (problem.rois_are_double ? 8 : 4));
  if (request.kernel == Kernel::kBackward) {
    visit(request.pooled.values, bytes_of_elements(problem, num_pooled(problem)));
  } else {
    for (int64_t i = 0; i < problem.num_levels; ++i) {
      visit(problem.levels[i].input, bytes_of_maps(problem, problem.levels[i]));
    }
  }
  if (request.kernel != Kernel::kForward) {
    visit(request.pooled.argmax, num_pooled(problem) * 4);
  }
}

// Does the same for each tensor that the kernels write.
template <typename Visit>
void visit_what_is_written(Request& request, const Visit& visit) {
  RoIPoolProblem& problem = request.problem;
  if (request.kernel == Kernel::kBackward) {
    for (int64_t i = 0; i < problem.num_levels; ++i) {
      visit(problem.levels[i].grad_input, bytes_of_maps(problem, problem.levels[i]));
    }
    return;
  }
  visit(request.pooled.values, bytes_of_elements(problem, num_pooled(problem)));
  if (request.kernel == Kernel::kForward && request.pooled.argmax != nullptr) {
    visit(request.pooled.argmax, num_pooled(problem) * 4);
  }
}

inline void write_all(int file, const void* data, int64_t num_bytes) {
  const char* from = static_cast<const char*>(data);
  while (num_bytes > 0) {
    const ssize_t written = write(file, from, static_cast<size_t>(num_bytes));
    if (written <= 0) {
      throw std::runtime_error(std::string("the other process takes no more: ") + std::strerror(errno));
    }
    from += written;
    num_bytes -= written;
  }
}

inline void read_all(int file, void* data, int64_t num_bytes) {
  char* to = static_cast<char*>(data);
  while (num_bytes > 0) {
    const ssize_t received = read(file, to, static_cast<size_t>(num_bytes));
    if (received <= 0) {
      throw std::runtime_error("the other process has ended");
    }
    to += received;
    num_bytes -= received;
  }
}

}  // namespace roipool::emulated
