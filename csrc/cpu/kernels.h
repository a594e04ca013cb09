// Declares what the CPU offers the operators: kernels over a problem. Knows no torch.
//
// Words: a channel group is some adjacent channels that are worked on together; each kernel says how many. A region's
// part of a map is the rectangle of cells that its bins lie in. A visit of a cell is one look at it for one bin.
//
// Maps, outputs and argmax are dense in the memory format of the problem. The kernels share out their work by
// parallel.h, and throw std::bad_alloc where there is no memory for what they need beside their results.
#pragma once

#include <cstdint>

#include "problem.h"

namespace roipool::cpu {

// Writes output and, unless it is null, argmax: [K, C, PH, PW].
void forward(const RoIPoolProblem& problem, void* output, int32_t* argmax);

// Writes every element of the grad_inputs of the problem. grad_output, argmax: [K, C, PH, PW].
void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax);

// Writes output from the inputs at argmax: [K, C, PH, PW].
void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output);

}  // namespace roipool::cpu
