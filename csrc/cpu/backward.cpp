#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "cpu/dtype_loops.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"

namespace roipool::cpu {
namespace {

template <typename scalar_t>
void copy_narrowed(const wide_t<scalar_t>* from, int64_t count, scalar_t* to) {
  if constexpr (std::is_same_v<scalar_t, wide_t<scalar_t>>) {
    std::copy_n(from, count, to);
  } else {
    conversions_of(scalar_t()).narrow(from, count, reinterpret_cast<int16_t*>(to));
  }
}

// What a thread scatters to at a time: some channels and cells of one image.
struct ScatterBlock {
  int64_t image;
  int64_t channel;
  int64_t channels;
  int64_t first_cell;
  int64_t num_cells;
};

// Channels that a thread scatters to at a time: enough that what it reads of a region is of some length, few enough
// that their cells stay in its cache and that all threads have work.
int64_t scatter_channels(const LevelProblem& problem) {
  constexpr int64_t kCacheBytes = 1 << 20;
  const int64_t most = problem.channels_last ? 32 : 16;
  const int64_t least = problem.channels_last ? 16 : 1;  // a line of cache
  const int64_t in_cache =
      kCacheBytes / static_cast<int64_t>(sizeof(float)) / std::max<int64_t>(1, problem.maps.num_cells());
  const int64_t share = problem.num_images * problem.channels / (4 * num_threads());
  return std::clamp(std::min(in_cache, share), least, most);
}

// Adds up the gradients of a block, region by region and bin by bin: the order that fixes every bit. One thread owns
// the block, so there is nothing to synchronise.
//
//   sums  of the block, 0 at first: [channels][num_cells] by channel_stride, or [num_cells][channels] by cell_stride
template <bool kChannelsLast, typename scalar_t, typename sum_t>
void scatter(const LevelProblem& problem, const RegionsByImage& regions, const ScatterBlock& block,
             const scalar_t* grad_output, const int32_t* argmax, sum_t* sums, int64_t channel_stride,
             int64_t cell_stride) {
  const int64_t num_bins = problem.num_bins();
  // What is adjacent in grad_output and argmax: the bins of one channel, or the channels of one bin; of many bins,
  // where the block has all channels.
  constexpr int64_t kMostBins = 256;
  const int64_t lanes = kChannelsLast ? block.channels : 1;
  const bool all_channels = kChannelsLast && block.channels == problem.channels;
  const int64_t bins_of_run = !kChannelsLast ? num_bins : all_channels ? std::min(kMostBins, num_bins) : 1;
  const int64_t num_runs = kChannelsLast ? divide_up(num_bins, bins_of_run) : block.channels;
  const int64_t run_stride = kChannelsLast ? bins_of_run * problem.output_bin_stride : problem.output_channel_stride;
  const Scratch<sum_t> widened(std::is_same_v<scalar_t, sum_t> ? 0 : bins_of_run * lanes);
  constexpr int64_t kLine = 64 / sizeof(int32_t);  // elements of argmax in a line of cache
  const int64_t* last = regions.end(block.image);
  for (const int64_t* k = regions.begin(block.image); k != last; ++k) {
    for (int64_t run = 0; run < num_runs; ++run) {
      const int64_t from =
          *k * problem.output_region_stride + block.channel * problem.output_channel_stride + run * run_stride;
      const int64_t run_length = std::min(bins_of_run, num_bins - (kChannelsLast ? run * bins_of_run : 0)) * lanes;
      // What comes next lies too far away for the processor to foresee: in channels_last the bins after this one, else
      // the same channel of the next region. All channels of a region are adjacent.
      if (!all_channels) {
        const int64_t next =
            kChannelsLast ? from + 4 * run_stride : from + (k[k + 1 < last] - *k) * problem.output_region_stride;
        for (int64_t i = 0; i < run_length; i += kLine) {
          __builtin_prefetch(argmax + next + i);
          __builtin_prefetch(grad_output + next + i);
        }
      }
      const sum_t* grads;
      if constexpr (std::is_same_v<scalar_t, sum_t>) {
        grads = grad_output + from;
      } else {
        conversions_of(scalar_t())
            .widen(reinterpret_cast<const int16_t*>(grad_output + from), run_length, widened.get());
        grads = widened.get();
      }
      sum_t* run_sums = kChannelsLast ? sums : sums + run * channel_stride;
      for (int64_t i = 0; i < run_length; i += lanes) {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          const int64_t cell = argmax[from + i + lane] - block.first_cell;
          if (cell >= 0 && cell < block.num_cells) {
            run_sums[cell * cell_stride + lane] += grads[i + lane];
          }
        }
      }
    }
  }
}

template <typename scalar_t>
void backward_level(const LevelProblem& problem, const scalar_t* grad_output, const int32_t* argmax) {
  using sum_t = wide_t<scalar_t>;
  const FeatureMaps& maps = problem.maps;
  auto* grad_input = static_cast<scalar_t*>(maps.grad_input);
  const int64_t num_images = problem.num_images;
  const int64_t num_elements = num_images * problem.channels * maps.num_cells();
  if (num_elements == 0) {
    return;
  }
  const int64_t most_channels = std::min(scatter_channels(problem), problem.channels);
  const int64_t num_blocks = num_images * divide_up(problem.channels, most_channels);
  // Where there are too few blocks for all threads, they share the cells of one: each reads it all, and adds its part.
  const int64_t num_parts = divide_up(num_threads(), num_blocks);
  const int64_t most_cells = divide_up(maps.num_cells(), num_parts);
  // Sums are made in place, unless they need another type, or a few channels of each cell would lie so far apart that
  // they fill but a part of the cache. Where few cells have a sum, that does not matter: all are cleared first.
  const bool few_sums = 8 * problem.num_regions() * problem.num_bins() < num_images * maps.num_cells();
  const bool is_scattered = problem.channels_last && most_channels < problem.channels;
  const bool in_place = std::is_same_v<scalar_t, sum_t> && (!is_scattered || few_sums);
  const auto scatter_block = problem.channels_last ? scatter<true, scalar_t, sum_t> : scatter<false, scalar_t, sum_t>;
  const bool clear_first = in_place && is_scattered;
  const RegionsByImage regions(problem, 0, problem.num_regions());

  if (clear_first) {
    parallel_for(0, num_elements, kGrain,
                 [&](int64_t begin, int64_t end) { std::fill(grad_input + begin, grad_input + end, scalar_t(0)); });
  }
  parallel_for(0, num_blocks * num_parts, grain_of(most_cells * most_channels), [&](int64_t begin, int64_t end) {
    const Scratch<sum_t> buffer(in_place ? 0 : most_cells * most_channels);
    for (int64_t task = begin; task < end; ++task) {
      ScatterBlock block;
      block.image = task / num_parts % num_images;  // every thread gets blocks of all images: the work is even
      block.channel = task / num_parts / num_images * most_channels;
      block.channels = std::min(most_channels, problem.channels - block.channel);
      block.first_cell = task % num_parts * most_cells;
      block.num_cells = std::clamp<int64_t>(maps.num_cells() - block.first_cell, 0, most_cells);
      scalar_t* grad = grad_input + block.image * maps.image_stride + block.channel * maps.channel_stride +
                       block.first_cell * maps.cell_stride;
      // What is adjacent in grad_input: the cells of one channel, or the channels of one cell; of all cells, where the
      // block has all channels.
      const bool all_channels = block.channels == problem.channels;
      const int64_t num_runs = !problem.channels_last ? block.channels : all_channels ? 1 : block.num_cells;
      const int64_t run_length = problem.channels_last && !all_channels ? block.channels
                                 : problem.channels_last                ? block.num_cells * block.channels
                                                                        : block.num_cells;
      const int64_t run_stride = problem.channels_last ? maps.cell_stride : maps.channel_stride;
      if (in_place) {
        if (!clear_first) {
          for (int64_t run = 0; run < num_runs; ++run) {
            std::fill_n(grad + run * run_stride, run_length, scalar_t(0));
          }
        }
        scatter_block(problem, regions, block, grad_output, argmax, reinterpret_cast<sum_t*>(grad), maps.channel_stride,
                      maps.cell_stride);
      } else {
        std::fill_n(buffer.get(), num_runs * run_length, sum_t(0));
        scatter_block(problem, regions, block, grad_output, argmax, buffer.get(), block.num_cells,
                      problem.channels_last ? block.channels : 1);
        for (int64_t run = 0; run < num_runs; ++run) {
          copy_narrowed(buffer.get() + run * run_length, run_length, grad + run * run_stride);
        }
      }
    }
  });
}

// grad_output, argmax: [K, C, PH, PW]; the maps are grad_inputs, every element of which is written
template <typename scalar_t>
void backward_of_dtype(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) {
  for (int64_t level = 0; level < problem.num_levels; ++level) {
    backward_level(LevelProblem(problem, level), grad_output, argmax);
  }
}

}  // namespace

void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax) {
  with_dtype(problem.dtype,
             [&](auto zero) { backward_of_dtype(problem, static_cast<const decltype(zero)*>(grad_output), argmax); });
}

}  // namespace roipool::cpu
