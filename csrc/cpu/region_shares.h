// Goes through regions in parallel, and clears the outputs of those that have no bins.
#pragma once

#include <algorithm>
#include <cstdint>

#include "cpu/parallel.h"
#include "cpu/regions.h"
#include "problem.h"

namespace roipool::cpu {

// Writes 0 and -1 for a region that has no bins. argmax may be null.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.output_region_stride, problem.output_region_stride, scalar_t{});
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.output_region_stride, problem.output_region_stride, -1);
  }
}

// Calls function(bins, image, k, share) in parallel for each region that has bins and each of its shares, its channels
// say, and clears the other regions. make_function() makes a function for each thread. work_per_share is in elements,
// as for grain_of().
template <typename scalar_t, typename MakeFunction>
void for_each_region_share(const LevelProblem& problem, scalar_t* output, int32_t* argmax, int64_t num_shares,
                           int64_t work_per_share, const MakeFunction& make_function) {
  parallel_for(problem.num_regions() * num_shares, grain_of(work_per_share), [&](int64_t begin, int64_t end) {
    auto function = make_function();
    RegionBins bins(problem);
    int64_t placed = -1;
    int64_t image = -1;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t k = problem.regions[task / num_shares];
      const int64_t share = task % num_shares;
      if (k != placed) {
        image = bins.place(k);
        placed = k;
      }
      if (image >= 0) {
        function(bins, image, k, share);
      } else if (share == 0) {
        clear_region(problem, k, output, argmax);
      }
    }
  });
}

}  // namespace roipool::cpu
