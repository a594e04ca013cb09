#include "cuda_runtime.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

// AddressSanitizer must be told of every change of stacks.
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size)
#define ASAN_UNPOISON_MEMORY_REGION(address, size)
#define __sanitizer_start_switch_fiber(save, bottom, size) static_cast<void>(save)
#define __sanitizer_finish_switch_fiber(save, bottom, size) static_cast<void>(save)
#endif

dim3 threadIdx;
dim3 blockIdx;
dim3 gridDim;

namespace roipool::cuda {

alignas(16) unsigned char shared_memory[1 << 20];

}  // namespace roipool::cuda

namespace cuda_host {

Device device;

namespace {

constexpr unsigned kWarp = 32;
constexpr size_t kStackBytes = 256 << 10;

enum class Wait { kNothing, kBlock, kWarp, kBallot, kMatch, kShuffle, kExited };

constexpr const char* kNames[] = {"nothing",          "__syncthreads", "__syncwarp", "a vote",
                                  "__match_any_sync", "a shuffle",     "its end"};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "cuda_host: block (%u, %u, %u): %s\n", blockIdx.x, blockIdx.y, blockIdx.z, what);
  std::abort();
}

// Holds where a fiber, or the scheduler, goes on. The first switch to a fiber goes by its ucontext; all others go by
// setjmp, which makes no system call. AddressSanitizer does not follow setjmp from stack to stack, so that its switches
// all go by ucontext.
struct Context {
  ucontext_t start;
  jmp_buf rest;
  bool has_run = false;
};

void switch_context(Context& from, Context& to) {
#ifdef __SANITIZE_ADDRESS__
  swapcontext(&from.start, &to.start);
#else
  from.has_run = true;
  if (_setjmp(from.rest) == 0) {
    if (to.has_run) {
      _longjmp(to.rest, 1);
    }
    setcontext(&to.start);
  }
#endif
}

// Is a thread of the block.
struct Fiber {
  Context context;
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  void* sanitizer_stack = nullptr;
  Wait wait = Wait::kNothing;
  int64_t value = 0;   // brought to a function of its warp
  unsigned from = 0;   // the lane whose value a shuffle returns
  int64_t result = 0;  // returned by that function
};

class Block {
 public:
  static Block& instance() {
    static Block block;
    return block;
  }

  void run(unsigned num_threads, const std::function<void()>& thread) {
    thread_ = &thread;
    while (fibers_.size() < num_threads) {
      add_fiber();
    }
    num_threads_ = num_threads;
    for (unsigned i = 0; i < num_threads; ++i) {
      fibers_[i]->wait = Wait::kNothing;
    }
    std::vector<unsigned> order(num_threads);
    std::iota(order.begin(), order.end(), 0);
    // Half of the warps stand still in each round, so that some come much further than others.
    for (bool can_run = true; can_run;) {
      can_run = false;
      std::shuffle(order.begin(), order.end(), random_);
      const uint32_t still = num_threads > kWarp ? static_cast<uint32_t>(random_()) : 0;
      for (const unsigned i : order) {
        if (fibers_[i]->wait == Wait::kNothing) {
          can_run = true;
          if ((still >> i / kWarp & 1) == 0) {
            resume(i);
          }
        }
      }
      can_run = release() || can_run;
    }
    for (unsigned i = 0; i < num_threads; ++i) {
      if (fibers_[i]->wait != Wait::kExited) {
        fail("threads wait for one another at different places");
      }
    }
  }

  // Has the running thread wait for others, and returns what the function of its warp made of their values.
  int64_t wait_for(Wait wait, int64_t value, unsigned from = 0) {
    Fiber& fiber = *fibers_[current_];
    fiber.from = from;
    fiber.wait = wait;
    fiber.value = value;
    leave(fiber);
    return fiber.result;
  }

 private:
  void add_fiber() {
    fibers_.push_back(std::make_unique<Fiber>());
    ucontext_t& start = fibers_.back()->context.start;
    getcontext(&start);
    start.uc_stack.ss_sp = fibers_.back()->stack.get();
    start.uc_stack.ss_size = kStackBytes;
    start.uc_link = nullptr;
    makecontext(&start, &Block::enter, 0);
  }

  // Runs its thread of this block, then that of the next one, and so on.
  static void enter() {
    Block& block = instance();
    __sanitizer_finish_switch_fiber(nullptr, &block.scheduler_stack_, &block.scheduler_stack_size_);
    for (;;) {
      (*block.thread_)();
      Fiber& fiber = *block.fibers_[block.current_];
      fiber.wait = Wait::kExited;
      block.leave(fiber);
    }
  }

  void resume(unsigned i) {
    Fiber& fiber = *fibers_[i];
    current_ = i;
    threadIdx.x = i;
    void* fake_stack = nullptr;
    __sanitizer_start_switch_fiber(&fake_stack, fiber.stack.get(), kStackBytes);
    switch_context(scheduler_, fiber.context);
    __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
  }

  void leave(Fiber& fiber) {
    __sanitizer_start_switch_fiber(&fiber.sanitizer_stack, scheduler_stack_, scheduler_stack_size_);
    switch_context(fiber.context, scheduler_);
    __sanitizer_finish_switch_fiber(fiber.sanitizer_stack, &scheduler_stack_, &scheduler_stack_size_);
  }

  // Lets threads go on if all that they wait for have arrived; returns whether there were any.
  bool release() {
    bool released = false;
    for (unsigned first = 0; first < num_threads_; first += kWarp) {
      released = release_warp(first) || released;
    }
    const auto waits_for_block = [&](unsigned i) {
      return fibers_[i]->wait == Wait::kBlock || fibers_[i]->wait == Wait::kExited;
    };
    bool all = true;
    for (unsigned i = 0; i < num_threads_; ++i) {
      all = all && waits_for_block(i);
    }
    for (unsigned i = 0; all && i < num_threads_; ++i) {
      if (fibers_[i]->wait == Wait::kBlock) {
        fibers_[i]->wait = Wait::kNothing;
        released = true;
      }
    }
    return released;
  }

  // Lets a warp go on if all its lanes are in the same function: the kernels use no mask but that of all lanes.
  bool release_warp(unsigned first) {
    const Wait wait = fibers_[first]->wait;
    const unsigned end = std::min(first + kWarp, num_threads_);
    for (unsigned i = first; i < end; ++i) {
      const Wait other = fibers_[i]->wait;
      if (other == Wait::kNothing) {
        return false;
      }
      if (other != wait && other != Wait::kBlock && wait != Wait::kBlock) {
        std::fprintf(stderr, "thread %u is at %s, thread %u at %s\n", first, kNames[static_cast<int>(wait)], i,
                     kNames[static_cast<int>(other)]);
        fail("the threads of a warp have parted");
      }
      if (other != wait) {
        return false;
      }
    }
    if (wait == Wait::kBlock || wait == Wait::kExited) {
      return false;
    }
    if (end - first < kWarp) {
      fail("a function of a whole warp, in a warp that is not");
    }
    for (unsigned i = first; i < end; ++i) {
      fibers_[i]->result = wait == Wait::kShuffle ? fibers_[first + fibers_[i]->from]->value : vote(wait, first, i);
    }
    for (unsigned i = first; i < end; ++i) {
      fibers_[i]->wait = Wait::kNothing;
    }
    return true;
  }

  // Returns a bit for each lane of a warp: whether its value is that of fiber i, or is not 0.
  unsigned vote(Wait wait, unsigned first, unsigned i) const {
    unsigned votes = 0;
    for (unsigned lane = 0; lane < kWarp; ++lane) {
      const int64_t value = fibers_[first + lane]->value;
      votes |= (wait == Wait::kMatch ? value == fibers_[i]->value : value != 0) ? 1u << lane : 0;
    }
    return votes;
  }

  std::vector<std::unique_ptr<Fiber>> fibers_;
  unsigned num_threads_ = 0;
  unsigned current_ = 0;
  const std::function<void()>* thread_ = nullptr;
  Context scheduler_{};
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_size_ = 0;
  std::mt19937 random_{0};
};

std::map<const void*, int>& allowed_shared_bytes() {
  static std::map<const void*, int> allowed;
  return allowed;
}

int64_t wait_for_warp(unsigned mask, Wait wait, int64_t value, unsigned from = 0) {
  if (mask != 0xffffffffu) {
    fail("a mask that is not all lanes");
  }
  return Block::instance().wait_for(wait, value, from);
}

}  // namespace

size_t most_shared_bytes(const void* kernel) {
  const auto found = allowed_shared_bytes().find(kernel);
  return found == allowed_shared_bytes().end() ? 48 << 10 : std::max(48 << 10, found->second);
}

cudaError_t allow_shared_bytes(const void* kernel, int bytes) {
  if (bytes > device.shared_bytes_per_block) {
    return cudaErrorInvalidValue;
  }
  allowed_shared_bytes()[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t run(const cudaLaunchConfig_t& config, size_t most_shared_bytes, const std::function<void()>& thread) {
  const dim3 grid = config.gridDim;
  const unsigned num_threads = config.blockDim.x;
  const size_t shared_bytes = config.dynamicSmemBytes;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffff || grid.y > 0xffff || grid.z > 0xffff ||
      num_threads == 0 || num_threads > 1024 || shared_bytes > most_shared_bytes || device.most_blocks == 0) {
    return cudaErrorInvalidValue;
  }
  // Kernels take several turns where a grid holds fewer blocks than there is work: a small grid shows that they do.
  gridDim = {std::min(grid.x, device.most_blocks), std::min(grid.y, device.most_blocks),
             std::min(grid.z, device.most_blocks)};
  unsigned char* shared = roipool::cuda::shared_memory;
  ASAN_POISON_MEMORY_REGION(shared + shared_bytes, sizeof roipool::cuda::shared_memory - shared_bytes);
  for (unsigned z = 0; z < gridDim.z; ++z) {
    for (unsigned y = 0; y < gridDim.y; ++y) {
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        std::memset(shared, 0xcd, shared_bytes);
        Block::instance().run(num_threads, thread);
      }
    }
  }
  ASAN_UNPOISON_MEMORY_REGION(shared, sizeof roipool::cuda::shared_memory);
  return cudaSuccess;
}

}  // namespace cuda_host

using cuda_host::Block;
using cuda_host::Wait;
using cuda_host::wait_for_warp;

void __syncthreads() { Block::instance().wait_for(Wait::kBlock, 0); }

void __syncwarp() { wait_for_warp(0xffffffffu, Wait::kWarp, 0); }

unsigned __ballot_sync(unsigned mask, bool predicate) {
  return static_cast<unsigned>(wait_for_warp(mask, Wait::kBallot, predicate));
}

bool __any_sync(unsigned mask, bool predicate) { return wait_for_warp(mask, Wait::kBallot, predicate) != 0; }

unsigned __match_any_sync(unsigned mask, int value) {
  return static_cast<unsigned>(wait_for_warp(mask, Wait::kMatch, value));
}

int64_t cuda_host::shuffle(unsigned mask, int64_t value, unsigned from) {
  return wait_for_warp(mask, Wait::kShuffle, value, from);
}

cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrMultiProcessorCount ? cuda_host::device.num_multiprocessors
                                                       : cuda_host::device.shared_bytes_per_block;
  return cudaSuccess;
}
