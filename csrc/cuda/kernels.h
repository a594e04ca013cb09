// Declares what CUDA devices offer the operators: kernels over a problem, launched on a stream. Knows no torch.
//
// Maps, outputs and argmax are on the current device, dense in the memory format of the problem. They may have more
// than 2^31 elements, so that pointers advance in 64 bits; the cells of a plane, of which there are fewer, are counted
// in 32.
//
// Words: a channel group is some adjacent channels that are worked on together; each kernel says how many. A share is
// the regions that one block pools. A merge makes squares of cells, each one its maximum, twice as high and wide.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "problem.h"

namespace roipool::cuda {

// Writes output and, unless it is null, argmax: [K, C, PH, PW].
cudaError_t forward(const RoIPoolProblem& problem, void* output, int32_t* argmax, cudaStream_t stream);

// Writes every element of the grad_inputs of the problem. grad_output, argmax: [K, C, PH, PW].
cudaError_t backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax,
                     cudaStream_t stream);

// Writes output from the inputs at argmax: [K, C, PH, PW].
cudaError_t gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output, cudaStream_t stream);

}  // namespace roipool::cuda
