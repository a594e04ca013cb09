// Scatters gradients to the cells that argmax names.
//
// One thread sums the gradients of a task, some channels and cells of one image: region by region and bin by bin, the
// order that fixes every bit. So there is nothing to synchronise.
#include "cpu/backward.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "arithmetic.h"
#include "cpu/dtype_loops.h"
#include "cpu/kernels.h"
#include "cpu/parallel.h"
#include "cpu/regions.h"
#include "cpu/scratch.h"

namespace roipool::cpu {
namespace {

// Sets numbers to 0. memset writes long runs without reading them first.
template <typename T>
void clear(T* numbers, int64_t count) {
  std::memset(static_cast<void*>(numbers), 0, count * sizeof(T));
}

// Describes the gradients that a thread sums at a time.
struct Task {
  int64_t image;
  int64_t first_channel;
  int64_t num_channels;
  int64_t first_cell;
  int64_t num_cells;
};

// Describes the sums of a task: [channels][cells] or [cells][channels], 0 at first.
template <typename sum_t>
struct Sums {
  sum_t* data;
  int64_t channel_stride;
  int64_t cell_stride;
};

// Describes how the elements of grad_output and argmax that a task reads of a region lie in runs of adjacent ones.
//
//   contiguous     a run for each channel, of its bins
//   channels_last  a run for each bin, of its channels; for many bins, where the task has all channels
struct Runs {
  int64_t num_runs;
  int64_t stride;           // from run to run, in elements
  int64_t length;           // of a run, in elements; the last one may be shorter
  int64_t bin_elements;     // adjacent elements of one bin
  int64_t region_elements;  // of a region, in all runs together
  bool all_adjacent;        // all runs of a region are one
};

Runs runs_of(const LevelProblem& problem, const Task& task) {
  constexpr int64_t kMaxRunBins = 256;
  const int64_t num_bins = problem.num_bins();
  if (!problem.channels_last) {
    return {task.num_channels, problem.output_channel_stride, num_bins, 1, task.num_channels * num_bins, false};
  }
  const bool all_channels = task.num_channels == problem.num_channels;
  const int64_t run_bins = all_channels ? std::min(kMaxRunBins, num_bins) : 1;
  return {divide_up(num_bins, run_bins), run_bins * problem.output_bin_stride,
          run_bins * task.num_channels,  task.num_channels,
          num_bins * task.num_channels,  all_channels};
}

// Fetches a run into the cache ahead of its turn: runs lie too far apart for the processor to foresee them.
template <typename scalar_t>
void prefetch_run(const scalar_t* grad_output, const int32_t* argmax, int64_t length) {
  constexpr int64_t kLine = 64 / sizeof(int32_t);  // elements of argmax in a line of cache
  for (int64_t i = 0; i < length; i += kLine) {
    __builtin_prefetch(argmax + i);
    __builtin_prefetch(grad_output + i);
  }
}

// Returns gradients in the type of sums: as they are, or widened to scratch memory.
template <typename scalar_t, typename sum_t>
const sum_t* widened(const scalar_t* grads, int64_t count, const Scratch<sum_t>& scratch) {
  if constexpr (std::is_same_v<scalar_t, sum_t>) {
    return grads;
  } else {
    widen(grads, count, scratch.get());
    return scratch.get();
  }
}

// Adds the gradients of one run to the sums of the cells that they go to. kBinElements is bin_elements where that is
// known to be 1, else 0.
template <int64_t kBinElements, typename sum_t>
void add_run(const Task& task, const sum_t* grads, const int32_t* argmax, int64_t length, int64_t bin_elements,
             sum_t* sums, int64_t cell_stride) {
  const int64_t step = kBinElements > 0 ? kBinElements : bin_elements;
  const int64_t first_cell = task.first_cell;
  const int64_t num_cells = task.num_cells;
  for (int64_t i = 0; i < length; i += step) {
    for (int64_t channel = 0; channel < step; ++channel) {
      const int64_t cell = argmax[i + channel] - first_cell;
      if (cell >= 0 && cell < num_cells) {
        sums[cell * cell_stride + channel] += grads[i + channel];
      }
    }
  }
}

// Adds up the gradients of a task.
template <bool kChannelsLast, typename scalar_t, typename sum_t>
void add_regions(const LevelProblem& problem, const RegionsByImage& regions, const Task& task,
                 const scalar_t* grad_output, const int32_t* argmax, const Sums<sum_t>& sums) {
  constexpr int64_t kRunsAhead = 4;
  const Runs runs = runs_of(problem, task);
  const Scratch<sum_t> scratch(std::is_same_v<scalar_t, sum_t> ? 0 : runs.length);
  const int64_t* end = regions.end(task.image);
  for (const int64_t* region = regions.begin(task.image); region != end; ++region) {
    const int64_t k = problem.regions[*region];
    const int64_t next_k = region + 1 < end ? problem.regions[region[1]] : k;
    const int64_t first = k * problem.output_region_stride + task.first_channel * problem.output_channel_stride;
    const int64_t to_next_region = (next_k - k) * problem.output_region_stride;
    for (int64_t run = 0; run < runs.num_runs; ++run) {
      const int64_t from = first + run * runs.stride;
      const int64_t length =
          kChannelsLast ? std::min(runs.length, runs.region_elements - run * runs.length) : runs.length;
      if (!runs.all_adjacent) {  // in channels_last the bins after this one, else the channel in the next region
        const int64_t next = from + (kChannelsLast ? kRunsAhead * runs.stride : to_next_region);
        prefetch_run(grad_output + next, argmax + next, length);
      }
      const sum_t* grads = widened(grad_output + from, length, scratch);
      sum_t* run_sums = sums.data + (kChannelsLast ? 0 : run * sums.channel_stride);
      add_run<kChannelsLast ? 0 : 1>(task, grads, argmax + from, length, runs.bin_elements, run_sums, sums.cell_stride);
    }
  }
}

// Sums the gradients of one level of a pyramid.
template <typename scalar_t>
class BackwardOfLevel {
  using sum_t = wide_t<scalar_t>;

 public:
  BackwardOfLevel(const LevelProblem& problem, const scalar_t* grad_output, const int32_t* argmax)
      : problem_(problem),
        sizes_(sizes_of(problem)),
        plan_(plan_backward(sizes_)),
        regions_(problem.num_images, problem.num_regions(),
                 [&](int64_t i) { return problem.image_of_region(problem.regions[i]); }),
        grad_output_(grad_output),
        argmax_(argmax),
        grad_input_(static_cast<scalar_t*>(problem.maps.grad_input)) {}

  void write_grad_input() const {
    if (plan_.clear_first) {
      const int64_t num_elements = sizes_.num_images * sizes_.num_channels * sizes_.num_cells;
      parallel_for(num_elements, grain_of(num_elements, clearing_cost(sizes_)),
                   [&](int64_t begin, int64_t end) { clear(grad_input_ + begin, end - begin); });
    }
    const int64_t task_elements = plan_.task_cells * plan_.task_channels;
    const int64_t num_tasks = plan_.num_tasks(sizes_);
    parallel_for(num_tasks, grain_of(num_tasks, summing_cost(sizes_)), [&](int64_t begin, int64_t end) {
      const Scratch<sum_t> scratch(plan_.in_place ? 0 : task_elements);
      for (int64_t i = begin; i < end; ++i) {
        sum_task(task(i), scratch.get());
      }
    });
  }

 private:
  static BackwardSizes sizes_of(const LevelProblem& problem) {
    BackwardSizes sizes{};
    sizes.num_images = problem.num_images;
    sizes.num_channels = problem.num_channels;
    sizes.num_cells = problem.maps.num_cells();
    sizes.num_regions = problem.num_regions();
    sizes.num_bins = problem.num_bins();
    sizes.channels_last = problem.channels_last;
    sizes.sums_in_dtype = std::is_same_v<scalar_t, sum_t>;
    sizes.num_threads = std::min(num_threads(), max_threads_for(summing_cost(sizes)));
    return sizes;
  }

  // Returns a task. Adjacent tasks are of different images, so that every thread gets some of all: the work is even.
  Task task(int64_t i) const {
    Task task;
    task.image = i / plan_.num_slices % sizes_.num_images;
    task.first_channel = i / plan_.num_slices / sizes_.num_images * plan_.task_channels;
    task.num_channels = std::min(plan_.task_channels, sizes_.num_channels - task.first_channel);
    task.first_cell = i % plan_.num_slices * plan_.task_cells;
    task.num_cells = std::clamp<int64_t>(sizes_.num_cells - task.first_cell, 0, plan_.task_cells);
    return task;
  }

  void sum_task(const Task& task, sum_t* scratch) const {
    const FeatureMaps& maps = problem_.maps;
    scalar_t* grad_input = grad_input_ + task.image * maps.image_stride + task.first_channel * maps.channel_stride +
                           task.first_cell * maps.cell_stride;
    // What is adjacent in grad_input: the cells of one channel, or the channels of one cell; of all cells, where the
    // task has all channels.
    const bool all_channels = task.num_channels == sizes_.num_channels;
    const bool one_run = problem_.channels_last && all_channels;
    const int64_t num_runs = !problem_.channels_last ? task.num_channels : one_run ? 1 : task.num_cells;
    const int64_t run_stride = problem_.channels_last ? maps.cell_stride : maps.channel_stride;
    const int64_t run_length = !problem_.channels_last ? task.num_cells
                               : one_run               ? task.num_cells * task.num_channels
                                                       : task.num_channels;
    if (plan_.in_place) {
      if (!plan_.clear_first) {
        const bool adjacent_runs = run_stride == run_length;
        for (int64_t run = 0; run < (adjacent_runs ? 1 : num_runs); ++run) {
          clear(grad_input + run * run_stride, adjacent_runs ? num_runs * run_length : run_length);
        }
      }
      add(task, {reinterpret_cast<sum_t*>(grad_input), maps.channel_stride, maps.cell_stride});
    } else {
      clear(scratch, num_runs * run_length);
      add(task, {scratch, task.num_cells, problem_.channels_last ? task.num_channels : 1});
      for (int64_t run = 0; run < num_runs; ++run) {
        narrow(scratch + run * run_length, run_length, grad_input + run * run_stride);
      }
    }
  }

  void add(const Task& task, const Sums<sum_t>& sums) const {
    const auto add = problem_.channels_last ? add_regions<true, scalar_t, sum_t> : add_regions<false, scalar_t, sum_t>;
    add(problem_, regions_, task, grad_output_, argmax_, sums);
  }

  const LevelProblem& problem_;
  const BackwardSizes sizes_;
  const BackwardPlan plan_;
  const RegionsByImage regions_;
  const scalar_t* const grad_output_;
  const int32_t* const argmax_;
  scalar_t* const grad_input_;
};

template <typename scalar_t>
void backward_level(const LevelProblem& problem, const scalar_t* grad_output, const int32_t* argmax) {
  if (problem.num_images * problem.num_channels * problem.maps.num_cells() > 0) {
    BackwardOfLevel<scalar_t>(problem, grad_output, argmax).write_grad_input();
  }
}

}  // namespace

void backward(const RoIPoolProblem& problem, const void* grad_output, const int32_t* argmax) {
  with_dtype(problem.dtype, [&](auto zero) {
    for (int64_t level = 0; level < problem.num_levels; ++level) {
      backward_level(LevelProblem(problem, level), static_cast<const decltype(zero)*>(grad_output), argmax);
    }
  });
}

}  // namespace roipool::cpu
