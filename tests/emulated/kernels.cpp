// Runs the CPU kernels on the requests of operators.cpp, which come by stdin and are answered by stdout.
#include "cpu/kernels.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <list>
#include <new>
#include <tuple>
#include <type_traits>

#include "cpu/parallel.h"
#include "messages.h"

namespace roipool::cpu {

// Stands for the threads of torch: loops are shared out as to four of them, one after the other.
int64_t num_threads() { return 4; }

void run_loop(int64_t size, int64_t grain, LoopFunction body, const void* context) {
  const int64_t step = std::max(grain, divide_up(size, num_threads()));
  for (int64_t begin = 0; begin < size; begin += step) {
    body(context, begin, std::min(begin + step, size));
  }
}

}  // namespace roipool::cpu

namespace roipool::emulated {
namespace {

// Holds a tensor between pages that must not be touched. It ends where the second of them begins.
class Memory {
 public:
  explicit Memory(int64_t num_bytes) {
    const int64_t page = sysconf(_SC_PAGESIZE);
    const int64_t accessible_bytes = divide_up(num_bytes, page) * page;
    mapped_bytes_ = static_cast<size_t>(accessible_bytes + 2 * page);
    mapped_ = static_cast<char*>(mmap(nullptr, mapped_bytes_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    const int access = PROT_READ | PROT_WRITE;
    if (mapped_ == MAP_FAILED ||
        (accessible_bytes > 0 && mprotect(mapped_ + page, static_cast<size_t>(accessible_bytes), access) != 0)) {
      throw std::bad_alloc();
    }
    data_ = mapped_ + page + accessible_bytes - num_bytes;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { munmap(mapped_, mapped_bytes_); }

  void* data() const { return data_; }

 private:
  char* mapped_;
  size_t mapped_bytes_;
  char* data_;
};

void call_kernel(const Request& request) {
  const auto& [problem, pooled] = std::tie(request.problem, request.pooled);
  switch (request.kernel) {
    case Kernel::kForward:
      return cpu::forward(problem, pooled.values, pooled.argmax);
    case Kernel::kBackward:
      return cpu::backward(problem, pooled.values, pooled.argmax);
    case Kernel::kGather:
      return cpu::gather(problem, pooled.argmax, pooled.values);
  }
}

void answer(Request& request) {
  std::list<Memory> tensors;
  visit_what_is_read(request, [&](auto& pointer, int64_t num_bytes) {
    void* data = tensors.emplace_back(num_bytes).data();
    read_all(STDIN_FILENO, data, num_bytes);
    pointer = static_cast<std::remove_reference_t<decltype(pointer)>>(data);
  });
  visit_what_is_written(request, [&](auto& pointer, int64_t num_bytes) {
    void* data = tensors.emplace_back(num_bytes).data();
    std::memset(data, 0xa5, static_cast<size_t>(num_bytes));  // all of it is to be written, zeros as well
    pointer = static_cast<std::remove_reference_t<decltype(pointer)>>(data);
  });
  if (request.forward_way[0] == 0) {
    unsetenv("ROIPOOL_CPU_FORWARD");
  } else {
    setenv("ROIPOOL_CPU_FORWARD", request.forward_way, 1);
  }
  call_kernel(request);
  visit_what_is_written(request,
                        [](const void* data, int64_t num_bytes) { write_all(STDOUT_FILENO, data, num_bytes); });
}

}  // namespace
}  // namespace roipool::emulated

int main() {
  using roipool::emulated::Request;
  const int64_t request_bytes = sizeof(Request);
  roipool::emulated::write_all(STDOUT_FILENO, &request_bytes, sizeof(request_bytes));
  Request request;
  while (read(STDIN_FILENO, &request, 1) == 1) {
    roipool::emulated::read_all(STDIN_FILENO, reinterpret_cast<char*>(&request) + 1, sizeof(request) - 1);
    roipool::emulated::answer(request);
  }
}
