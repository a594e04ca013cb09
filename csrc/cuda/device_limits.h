// States what all CUDA devices have in common and what tells them apart. Includes nothing of CUDA, so that the plans of
// launches (forward.h, backward.h) can be tested by any C++ compiler.
#pragma once

namespace roipool::cuda {

constexpr int kWarp = 32;                 // threads that execute an instruction together
constexpr int kThreads = 256;             // threads of a block, unless a plan says otherwise
constexpr int kWarps = kThreads / kWarp;  // warps of such a block
constexpr int kVectorBytes = 16;          // bytes that a thread can read or write by one instruction

struct DeviceLimits {
  int shared_bytes = 0;  // shared memory that one block may have
  int num_multiprocessors = 0;
};

}  // namespace roipool::cuda
