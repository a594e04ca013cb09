// The CPU kernels: forward, backward, gather.
//
// A pooled cell costs next to nothing, so everything here is about memory: channels lie side by side in the inner loops
// (inner_loops.h), each element of a result is written once, and what is read again and again (a block of channels of
// one image) is small enough to stay in the cache of the core that reads it.
#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/capability.h"
#include "roi_geometry.h"
#include "roi_pool.h"
#include "roi_pool_op.h"

namespace roipool {
namespace {

using torch::stable::parallel_for;

// Work, in elements, below which another thread costs more than it saves.
constexpr int64_t kGrain = 16384;

int64_t grain_of(int64_t elements_per_task) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task));
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ---- Regions.

// The bins of one region at a time, on both axes.
class Bins {
 public:
  explicit Bins(const RoIPoolProblem& problem)
      : problem_(problem), rows_(problem.pooled_height), columns_(problem.pooled_width) {}

  // Moves to region k. Returns the image that it lies in, or -1 where all its bins are empty by decree: a batch index
  // of no image, or a coordinate that is not finite.
  int64_t locate(int64_t k) {
    return problem_.rois_are_double ? locate(static_cast<const double*>(problem_.rois) + 5 * k)
                                    : locate(static_cast<const float*>(problem_.rois) + 5 * k);
  }

  const std::vector<Window>& rows() const { return rows_; }
  const std::vector<Window>& columns() const { return columns_; }

  // The largest number that a cell of a bin has, counted from the bin's first cell along the rows of the map.
  int64_t span() const { return (longest(rows_) - 1) * problem_.maps.width + longest(columns_) - 1; }

  // The first cell of each bin, or -1 of an empty one.
  void first_cells(int32_t* cells) const {
    for (const Window row : rows_) {
      for (const Window column : columns_) {
        const bool empty = row.empty() || column.empty();
        *cells++ = empty ? -1 : static_cast<int32_t>(row.lo * problem_.maps.width + column.lo);
      }
    }
  }

 private:
  static int64_t longest(const std::vector<Window>& windows) {
    int64_t cells = 0;
    for (const Window window : windows) {
      cells = std::max<int64_t>(cells, window.hi - window.lo);
    }
    return cells;
  }

  template <typename T>
  int64_t locate(const T* roi) {
    const FeatureMaps& maps = problem_.maps;
    const T spatial_scale = static_cast<T>(maps.spatial_scale);
    const int64_t image = image_of(roi, maps.num_images);
    Axis<T> x;
    Axis<T> y;
    if (image < 0 || !make_axis(roi[1], roi[3], spatial_scale, maps.width, problem_.pooled_width, &x) ||
        !make_axis(roi[2], roi[4], spatial_scale, maps.height, problem_.pooled_height, &y)) {
      return -1;
    }
    for (int64_t p = 0; p < problem_.pooled_height; ++p) {
      rows_[p] = y.window(p);
    }
    for (int64_t q = 0; q < problem_.pooled_width; ++q) {
      columns_[q] = x.window(q);
    }
    return image;
  }

  const RoIPoolProblem& problem_;
  std::vector<Window> rows_;
  std::vector<Window> columns_;
};

int64_t image_of_region(const RoIPoolProblem& problem, int64_t k) {
  const int64_t num_images = problem.maps.num_images;
  return problem.rois_are_double ? image_of(static_cast<const double*>(problem.rois) + 5 * k, num_images)
                                 : image_of(static_cast<const float*>(problem.rois) + 5 * k, num_images);
}

// The regions of each image, in ascending order.
class RegionsByImage {
 public:
  explicit RegionsByImage(const RoIPoolProblem& problem)
      : first_(problem.maps.num_images + 2, 0), regions_(problem.num_rois) {
    const int64_t num_images = problem.maps.num_images;
    const auto bucket_of = [&](int64_t k) {
      const int64_t image = image_of_region(problem, k);
      return image < 0 ? num_images : image;
    };
    for (int64_t k = 0; k < problem.num_rois; ++k) {
      ++first_[bucket_of(k) + 1];
    }
    std::partial_sum(first_.begin(), first_.end(), first_.begin());
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    for (int64_t k = 0; k < problem.num_rois; ++k) {
      regions_[next[bucket_of(k)]++] = k;
    }
  }

  // All regions, image by image, those of no image last.
  int64_t in_order(int64_t i) const { return regions_[i]; }

  const int64_t* begin(int64_t image) const { return regions_.data() + first_[image]; }
  const int64_t* end(int64_t image) const { return regions_.data() + first_[image + 1]; }

 private:
  std::vector<int64_t> first_;  // of each image in regions_
  std::vector<int64_t> regions_;
};

// ---- Forward.

// The inner loops of a dtype, and the lanes that stand for its bits there.
inline const InnerLoops<Float32Lanes>& inner_loops_of(float) { return cpu_capability().loops->float32; }

inline const InnerLoops<Float64Lanes>& inner_loops_of(double) { return cpu_capability().loops->float64; }

inline const InnerLoops<Float16Lanes>& inner_loops_of(Half) { return cpu_capability().loops->float16; }

inline const InnerLoops<BFloat16Lanes>& inner_loops_of(BFloat16) { return cpu_capability().loops->bfloat16; }

// Half-precision numbers are compared as floats.
template <typename scalar_t>
using compared_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

// A region that has no bins: 0 and -1.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.region_stride, problem.region_stride, scalar_t(0));
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.region_stride, problem.region_stride, -1);
  }
}

// Pools one region cell by cell from the map as it lies in memory: the plain form of what the inner loops do, for what
// is too little for them, or too large. argmax may be null.
template <typename scalar_t>
void pool_region(const RoIPoolProblem& problem, const Bins& bins, int64_t image, int64_t k, scalar_t* output,
                 int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  for (int64_t c = 0; c < problem.channels; ++c) {
    const scalar_t* map = static_cast<const scalar_t*>(maps.data) + image * maps.image_stride + c * maps.channel_stride;
    int64_t to = k * problem.region_stride + c * problem.channel_stride;
    for (const Window row : bins.rows()) {
      for (const Window column : bins.columns()) {
        int64_t best_cell = -1;
        compared_t<scalar_t> best = 0;
        if (!row.empty() && !column.empty()) {
          best_cell = row.lo * maps.width + column.lo;
          best = map[best_cell * maps.cell_stride];
          for (int64_t y = row.lo; y < row.hi; ++y) {
            for (int64_t cell = y * maps.width + column.lo; cell < y * maps.width + column.hi; ++cell) {
              const compared_t<scalar_t> value = map[cell * maps.cell_stride];
              if (value > best || std::isnan(value)) {
                best = value;
                best_cell = cell;
              }
            }
          }
        }
        output[to] = best_cell < 0 ? scalar_t(0) : map[best_cell * maps.cell_stride];
        if (argmax != nullptr) {
          argmax[to] = static_cast<int32_t>(best_cell);
        }
        to += problem.bin_stride;
      }
    }
  }
}

template <typename scalar_t>
void forward_regions(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  parallel_for(0, problem.num_rois, grain_of(problem.region_stride), [&](int64_t begin, int64_t end) {
    Bins bins(problem);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = bins.locate(k);
      if (image < 0) {
        clear_region(problem, k, output, argmax);
      } else {
        pool_region(problem, bins, image, k, output, argmax);
      }
    }
  });
}

// By blocks of channels, see inner_loops.h. All blocks are packed first, then each is pooled region by region: a block
// stays in the cache of the core that works on it, and any number of cores find work.
template <typename scalar_t>
void forward_blocks(const RoIPoolProblem& problem, scalar_t* output_values, int32_t* argmax) {
  const auto& loops = inner_loops_of(scalar_t());
  using Loops = std::remove_cvref_t<decltype(loops)>;
  using lane_t = typename Loops::lane_t;
  using cell_t = typename Loops::cell_t;
  constexpr int64_t kBlock = Loops::kBlockChannels;
  static_assert(sizeof(lane_t) == sizeof(scalar_t));
  const FeatureMaps& maps = problem.maps;
  const auto* input = static_cast<const lane_t*>(maps.data);
  auto* output = reinterpret_cast<lane_t*>(output_values);
  const int64_t num_bins = problem.num_bins();
  const int64_t block_size = maps.num_cells() * kBlock;
  const int64_t num_blocks = divide_up(problem.channels, kBlock);
  const RegionsByImage regions(problem);

  const std::unique_ptr<lane_t[]> packed(new lane_t[maps.num_images * num_blocks * block_size]);
  std::vector<uint8_t> plain(maps.num_images * num_blocks);
  parallel_for(0, maps.num_images * num_blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / num_blocks;
      const int64_t channel = task % num_blocks * kBlock;
      if (regions.begin(image) != regions.end(image)) {
        const Planes planes = {std::min(kBlock, problem.channels - channel), maps.num_cells(), maps.channel_stride,
                               maps.cell_stride};
        plain[task] = loops.pack(input + image * maps.image_stride + channel * maps.channel_stride, planes,
                                 packed.get() + task * block_size);
      }
    }
  });

  const int64_t num_tasks = num_blocks * problem.num_rois;  // block by block, and in it, image by image
  parallel_for(0, num_tasks, grain_of(num_bins * kBlock), [&](int64_t begin, int64_t end) {
    Bins bins(problem);
    std::unique_ptr<lane_t[]> values(new lane_t[num_bins * kBlock]);
    std::unique_ptr<cell_t[]> cells(argmax == nullptr ? nullptr : new cell_t[num_bins * kBlock]);
    std::vector<int32_t> first_cells(num_bins + kBlockBytes);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t k = regions.in_order(task % problem.num_rois);
      const int64_t block = task / problem.num_rois;
      const int64_t image = bins.locate(k);
      if (image < 0 || bins.span() > std::numeric_limits<cell_t>::max()) {
        if (block == 0 && image < 0) {
          clear_region(problem, k, output_values, argmax);
        } else if (block == 0) {
          pool_region(problem, bins, image, k, output_values, argmax);
        }
        continue;
      }
      const int64_t channel = block * kBlock;
      const int64_t to = k * problem.region_stride + channel * problem.channel_stride;
      const Planes planes = {std::min(kBlock, problem.channels - channel), num_bins, problem.channel_stride,
                             problem.bin_stride};
      const int64_t source = image * num_blocks + block;
      loops.pool(packed.get() + source * block_size, plain[source], planes.channels, maps.width, bins.rows().data(),
                 problem.pooled_height, bins.columns().data(), problem.pooled_width, values.get(), cells.get());
      loops.unpack_values(values.get(), planes, output + to);
      if (argmax != nullptr) {
        bins.first_cells(first_cells.data());
        loops.unpack_cells(cells.get(), first_cells.data(), planes, argmax + to);
      }
    }
  });
}

// output, argmax: [K, C, PH, PW]; argmax may be null
template <typename scalar_t>
void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  if (problem.channels >= 16 && problem.num_rois >= 4 * problem.maps.num_images) {
    forward_blocks(problem, output, argmax);
  } else {
    forward_regions(problem, output, argmax);
  }
}

// ---- Backward.

template <typename scalar_t>
using accumulate_t = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;

inline bool is_cell(int32_t cell, int64_t num_cells) { return cell >= 0 && cell < num_cells; }

// Adds up the gradients of `channels` channels of one image, region by region and bin by bin: the order that fixes
// every bit. One thread owns these channels, so there is nothing to synchronise.
//
//   sums  [H*W] rows of cell_stride elements, the channels at the start of each; all 0 at first
template <typename scalar_t, typename sum_t>
void scatter(const RoIPoolProblem& problem, const RegionsByImage& regions, int64_t image, int64_t channel,
             int64_t channels, const scalar_t* grad_output, const int32_t* argmax, sum_t* sums, int64_t cell_stride) {
  const int64_t num_cells = problem.maps.num_cells();
  for (const int64_t* k = regions.begin(image); k != regions.end(image); ++k) {
    for (int64_t bin = 0; bin < problem.num_bins(); ++bin) {
      const int64_t from = *k * problem.region_stride + channel * problem.channel_stride + bin * problem.bin_stride;
      for (int64_t c = 0; c < channels; ++c) {  // adjacent: one channel where contiguous, a block where channels_last
        const int32_t cell = argmax[from + c];
        if (is_cell(cell, num_cells)) {
          sums[cell * cell_stride + c] += static_cast<sum_t>(grad_output[from + c]);
        }
      }
    }
  }
}

// grad_output, argmax: [K, C, PH, PW]; problem.maps.data is grad_input, every element of which is written
template <typename scalar_t>
void backward(const RoIPoolProblem& problem, const scalar_t* grad_output, const int32_t* argmax) {
  using sum_t = accumulate_t<scalar_t>;
  constexpr bool kSumsInPlace = std::is_same_v<scalar_t, sum_t>;
  const FeatureMaps& maps = problem.maps;
  auto* grad_input = static_cast<scalar_t*>(maps.data);
  const int64_t num_cells = maps.num_cells();
  // Adjacent channels share their lines of memory in channels_last, and nothing in contiguous planes.
  const int64_t block = problem.channels_last ? 64 : 1;
  const int64_t blocks = (problem.channels + block - 1) / block;
  const RegionsByImage regions(problem);

  parallel_for(0, maps.num_images * blocks, grain_of(num_cells * block), [&](int64_t begin, int64_t end) {
    std::vector<sum_t> buffer(kSumsInPlace ? 0 : num_cells * block);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks;
      const int64_t channel = task % blocks * block;
      const int64_t channels = std::min(block, problem.channels - channel);
      scalar_t* grad = grad_input + image * maps.image_stride + channel * maps.channel_stride;
      if constexpr (kSumsInPlace) {
        for (int64_t cell = 0; cell < num_cells; ++cell) {
          std::fill_n(grad + cell * maps.cell_stride, channels, scalar_t(0));
        }
        scatter(problem, regions, image, channel, channels, grad_output, argmax, grad, maps.cell_stride);
      } else {
        std::fill(buffer.begin(), buffer.end(), sum_t(0));
        scatter(problem, regions, image, channel, channels, grad_output, argmax, buffer.data(), block);
        for (int64_t cell = 0; cell < num_cells; ++cell) {
          for (int64_t c = 0; c < channels; ++c) {
            grad[cell * maps.cell_stride + c] = static_cast<scalar_t>(buffer[cell * block + c]);
          }
        }
      }
    }
  });
}

// ---- Gather.

// argmax, output: [K, C, PH, PW]
template <typename scalar_t>
void gather(const RoIPoolProblem& problem, const int32_t* argmax, scalar_t* output) {
  const FeatureMaps& maps = problem.maps;
  const auto* input = static_cast<const scalar_t*>(maps.data);
  const int64_t num_cells = maps.num_cells();
  parallel_for(0, problem.num_rois, grain_of(problem.region_stride), [&](int64_t begin, int64_t end) {
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = image_of_region(problem, k);
      if (image < 0) {
        clear_region<scalar_t>(problem, k, output, nullptr);
        continue;
      }
      for (int64_t c = 0; c < problem.channels; ++c) {
        const scalar_t* channel = input + image * maps.image_stride + c * maps.channel_stride;
        for (int64_t bin = 0; bin < problem.num_bins(); ++bin) {
          const int64_t i = k * problem.region_stride + c * problem.channel_stride + bin * problem.bin_stride;
          output[i] = is_cell(argmax[i], num_cells) ? channel[argmax[i] * maps.cell_stride] : scalar_t(0);
        }
      }
    }
  });
}

// ---- The operators: checks -> outputs -> problem struct -> dtype -> kernel.

// argmax: where to write it, or null.
Tensor pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width, double spatial_scale,
            Tensor* argmax) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_output_size(pooled_height, pooled_width);
  check_spatial_scale(spatial_scale);

  const MemoryFormat format = memory_format_of(input);
  const Tensor maps = torch::stable::contiguous(input, format);
  const Tensor boxes = widen_rois(rois);
  const Shape sizes{rois.size(0), input.size(1), pooled_height, pooled_width};
  Tensor output = empty(sizes, input.scalar_type(), input.device(), format);
  int32_t* cells = nullptr;
  if (argmax != nullptr) {
    *argmax = empty(sizes, ScalarType::Int, input.device(), format);
    cells = static_cast<int32_t*>(argmax->mutable_data_ptr());
  }

  const RoIPoolProblem problem = make_problem(maps, boxes, pooled_height, pooled_width, spatial_scale, format);
  dispatch(input.scalar_type(),
           [&](auto zero) { forward(problem, static_cast<decltype(zero)*>(output.mutable_data_ptr()), cells); });
  return output;
}

Tensor roi_pool(const Tensor& input, const Tensor& rois, int64_t pooled_height, int64_t pooled_width,
                double spatial_scale) {
  return pool(input, rois, pooled_height, pooled_width, spatial_scale, nullptr);
}

std::tuple<Tensor, Tensor> roi_pool_with_argmax(const Tensor& input, const Tensor& rois, int64_t pooled_height,
                                                int64_t pooled_width, double spatial_scale) {
  Tensor argmax;
  Tensor output = pool(input, rois, pooled_height, pooled_width, spatial_scale, &argmax);
  return {output, argmax};
}

// grad_input takes the memory format of argmax, which is that of the input of the forward.
Tensor roi_pool_backward(const Tensor& grad_output, const Tensor& rois, const Tensor& argmax, int64_t batch_size,
                         int64_t height, int64_t width) {
  check_features(grad_output, "grad_output", "(K, C, PH, PW)");
  check_rois(rois, grad_output, "grad_output");
  check_argmax(argmax, rois, grad_output, "grad_output");
  check_same_shape(grad_output, "grad_output", argmax, "argmax");
  check(batch_size >= 0 && height >= 0 && width >= 0, "batch_size, height and width must not be negative, got ",
        batch_size, ", ", height, " and ", width);
  check_map_size("grad_input", height, width);

  const MemoryFormat format = memory_format_of(argmax);
  const Tensor grads = torch::stable::contiguous(grad_output, format);
  const Tensor cells = torch::stable::contiguous(argmax, format);
  const Tensor boxes = widen_rois(rois);
  Tensor grad_input =
      empty({batch_size, argmax.size(1), height, width}, grad_output.scalar_type(), grad_output.device(), format);

  const RoIPoolProblem problem = make_problem(grad_input, boxes, argmax.size(2), argmax.size(3), 1.0, format);
  dispatch(grad_output.scalar_type(), [&](auto zero) {
    backward(problem, static_cast<const decltype(zero)*>(grads.const_data_ptr()),
             static_cast<const int32_t*>(cells.const_data_ptr()));
  });
  return grad_input;
}

// The result takes the memory format of argmax: it stands in for an output of the forward.
Tensor roi_pool_gather(const Tensor& input, const Tensor& rois, const Tensor& argmax) {
  check_features(input, "input", "(N, C, H, W)");
  check_map_size("input", input.size(2), input.size(3));
  check_rois(rois, input, "input");
  check_argmax(argmax, rois, input, "input");

  const MemoryFormat format = memory_format_of(argmax);
  const Tensor maps = torch::stable::contiguous(input, format);
  const Tensor cells = torch::stable::contiguous(argmax, format);
  const Tensor boxes = widen_rois(rois);
  Tensor output = empty({argmax.size(0), argmax.size(1), argmax.size(2), argmax.size(3)}, input.scalar_type(),
                        input.device(), format);

  const RoIPoolProblem problem = make_problem(maps, boxes, argmax.size(2), argmax.size(3), 1.0, format);
  dispatch(input.scalar_type(), [&](auto zero) {
    gather(problem, static_cast<const int32_t*>(cells.const_data_ptr()),
           static_cast<decltype(zero)*>(output.mutable_data_ptr()));
  });
  return output;
}

}  // namespace
}  // namespace roipool

STABLE_TORCH_LIBRARY_IMPL(roipool, CPU, m) {
  m.impl("roi_pool", TORCH_BOX(&roipool::roi_pool));
  m.impl("roi_pool_with_argmax", TORCH_BOX(&roipool::roi_pool_with_argmax));
  m.impl("roi_pool_backward", TORCH_BOX(&roipool::roi_pool_backward));
  m.impl("roi_pool_gather", TORCH_BOX(&roipool::roi_pool_gather));
}
