// Picks the values that argmax names.
#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/region_shares.h"
#include "dtypes.h"
#include "problem.h"

namespace roipool::cpu {
namespace {

template <typename scalar_t>
void gather_region(const RoIPoolProblem& problem, int64_t k, const int32_t* argmax, scalar_t* output) {
  const int64_t image = problem.image_of_region(k);
  const FeatureMaps& maps = problem.levels[problem.level_of_region(k)];
  if (image < 0 || maps.num_cells() == 0) {
    clear_region<scalar_t>(problem, k, output, nullptr);
    return;
  }
  const auto* input = static_cast<const scalar_t*>(maps.input) + image * maps.image_stride;
  for (int64_t c = 0; c < problem.num_channels; ++c) {
    const scalar_t* plane = input + c * maps.channel_stride;
    for (int64_t bin_index = 0; bin_index < problem.num_bins(); ++bin_index) {
      const int64_t i =
          k * problem.output_region_stride + c * problem.output_channel_stride + bin_index * problem.output_bin_stride;
      output[i] = is_cell(argmax[i], maps.num_cells()) ? plane[argmax[i] * maps.cell_stride] : scalar_t{};
    }
  }
}

}  // namespace

void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output) {
  with_dtype(problem.dtype, [&](auto zero) {
    constexpr double kNanosecondsPerValue = 2;
    const double cost = kNanosecondsPerValue * static_cast<double>(problem.num_rois * problem.output_region_stride);
    parallel_for(problem.num_rois, grain_of(problem.num_rois, cost), [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) {
        gather_region(problem, k, argmax, static_cast<decltype(zero)*>(output));
      }
    });
  });
}

}  // namespace roipool::cpu
