#include <cstdint>

#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/regions.h"

namespace roipool::cpu {
namespace {

// argmax, output: [K, C, PH, PW]
template <typename scalar_t>
void gather_of_dtype(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) {
  parallel_for(0, problem.num_rois, grain_of(problem.output_region_stride), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = problem.image_of_region(k);
      const FeatureMaps& maps = problem.levels[problem.level_of_region(k)];
      if (image < 0 || maps.num_cells() == 0) {
        clear_region<scalar_t>(problem, k, output, nullptr);
        continue;
      }
      const auto* input = static_cast<const scalar_t*>(maps.input);
      for (int64_t c = 0; c < problem.channels; ++c) {
        const scalar_t* channel = input + image * maps.image_stride + c * maps.channel_stride;
        for (int64_t bin = 0; bin < problem.num_bins(); ++bin) {
          const int64_t i =
              k * problem.output_region_stride + c * problem.output_channel_stride + bin * problem.output_bin_stride;
          output[i] = is_cell(argmax[i], maps.num_cells()) ? channel[argmax[i] * maps.cell_stride] : scalar_t(0);
        }
      }
    }
  });
}

}  // namespace

void gather(const RoIPoolProblem& problem, const int32_t* argmax, void* output) {
  with_dtype(problem.dtype, [&](auto zero) { gather_of_dtype(problem, argmax, static_cast<decltype(zero)*>(output)); });
}

}  // namespace roipool::cpu
