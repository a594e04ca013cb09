// Declares what CUDA devices offer the operators: kernels over a problem, launched on a stream. Knows no torch.
//
// Maps, outputs and argmax are on the current device, dense in the memory format of the problem. They may have more
// than 2^31 elements, so that pointers advance in 64 bits; the cells of a plane, of which there are fewer, are counted
// in 32.
//
// Words: a channel group is some adjacent channels that are worked on together; each kernel says how many. A share is
// some of the regions. A tile is some rows and columns of cells or of bins. A plane is one channel of an image on a
// level. A segment is the regions that are sorted together. A run is some bins of a region, listed together.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "problem.h"

namespace roipool::cuda {

// Returns how many bytes of scratch memory a forward and a backward need on the device, aligned as torch aligns.
int64_t scratch_bytes(const RoIPoolProblem& problem);

// Writes output and, unless it is null, argmax: [K, C, PH, PW].
cudaError_t forward(const RoIPoolProblem& problem, void* output, int32_t* argmax, void* scratch, cudaStream_t stream);

// Writes every element of the grad_inputs of the problem. grad_output, argmax: [K, C, PH, PW].
//
// A bin is looked at only in the tiles of cells that it meets. So an element of argmax that names no cell of its bin,
// which no forward of these regions wrote, may be left out.
cudaError_t backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax, void* scratch,
                     cudaStream_t stream);

// Writes output from the inputs at argmax: [K, C, PH, PW].
cudaError_t gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output, cudaStream_t stream);

}  // namespace roipool::cuda
