// Goes through regions in parallel; clears outputs of those that lie in no image.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/regions.h"
#include "problem.h"

namespace roipool::cpu {

// Writes 0 and -1 for a region whose bins are all empty. argmax may be null.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.output_region_stride, problem.output_region_stride, scalar_t{});
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.output_region_stride, problem.output_region_stride, -1);
  }
}

// Calls function(region, share) in parallel for each region that lies in an image and each of its shares, its channels
// say. make_function() makes a function for each thread. `cost` is of all calls together, in nanoseconds.
template <typename MakeFunction>
void for_each_region_share(const PlacedRegions& placed, int64_t num_shares, double cost,
                           const MakeFunction& make_function) {
  const int64_t num_tasks = placed.size() * num_shares;
  parallel_for(num_tasks, grain_of(num_tasks, cost), [&](int64_t begin, int64_t end) {
    auto function = make_function();
    for (int64_t task = begin; task < end; ++task) {
      const PlacedRegion& region = placed[task / num_shares];
      if (region.image >= 0) {
        function(region, task % num_shares);
      }
    }
  });
}

}  // namespace roipool::cpu
