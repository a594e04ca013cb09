// The CPU kernels: forward, backward, gather.
//
// A pooled cell costs next to nothing, so everything here is about memory: channels lie side by side in the inner
// loops (as they do in channels_last), each element of a result is written once, and what is read again and again
// (a block of channels of one image) is small enough to stay in the cache of the core that reads it.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "cpu/simd.h"
#include "roi_geometry.h"
#include "roi_pool.h"
#include "roi_pool_op.h"

namespace roipool {
namespace {

using torch::stable::parallel_for;

// Channels that are pooled or scattered together: a few registers' worth, so that a block of a typical map (64 channels
// of 50 x 84 cells in float32) is a megabyte.
constexpr int64_t kBlock = 64;

// Work, in elements, below which another thread costs more than it saves.
constexpr int64_t kGrain = 16384;

int64_t grain_of(int64_t elements_per_task) {
  return std::max<int64_t>(1, kGrain / std::max<int64_t>(1, elements_per_task));
}

int64_t num_blocks(int64_t channels) { return (channels + kBlock - 1) / kBlock; }

// ---- The order of values: v replaces the best so far where precedes(best, v), as in max_pool2d.

// Floats order themselves.
template <typename scalar_t>
inline scalar_t rank(scalar_t value) {
  return value;
}

// Half-precision floats are ordered by an integer of the same width, which vectorises twice as wide as float and needs
// no conversion: the magnitude, negated for negative numbers. Both zeros are 0; a NaN is above infinity.
inline int16_t rank_of_bits(uint16_t bits, uint16_t infinity) {
  const int16_t magnitude = static_cast<int16_t>(bits & 0x7fff);
  const bool negative = (bits & 0x8000) != 0;
  return (negative & (magnitude <= infinity)) ? static_cast<int16_t>(-magnitude) : magnitude;
}

inline int16_t rank(Half value) { return rank_of_bits(value.x, 0x7c00); }

inline int16_t rank(BFloat16 value) { return rank_of_bits(value.x, 0x7f80); }

inline bool is_nan(float value) { return value != value; }

inline bool is_nan(double value) { return value != value; }

inline bool is_nan(Half value) { return (value.x & 0x7fff) > 0x7c00; }

inline bool is_nan(BFloat16 value) { return (value.x & 0x7fff) > 0x7f80; }

template <typename scalar_t>
inline bool precedes(scalar_t best, scalar_t value) {
  return (rank(value) > rank(best)) | is_nan(value);  // not ||: no branch, so that loops over channels vectorise
}

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

 private:
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
      : first_(problem.maps.num_images + 1, 0), regions_(problem.num_rois) {
    for (int64_t k = 0; k < problem.num_rois; ++k) {
      const int64_t image = image_of_region(problem, k);
      if (image >= 0) {
        ++first_[image + 1];
      }
    }
    for (size_t n = 1; n < first_.size(); ++n) {
      first_[n] += first_[n - 1];
    }
    std::vector<int64_t> next(first_.begin(), first_.end() - 1);
    for (int64_t k = 0; k < problem.num_rois; ++k) {
      const int64_t image = image_of_region(problem, k);
      if (image >= 0) {
        regions_[next[image]++] = k;
      }
    }
  }

  const int64_t* begin(int64_t image) const { return regions_.data() + first_[image]; }
  const int64_t* end(int64_t image) const { return regions_.data() + first_[image + 1]; }

 private:
  std::vector<int64_t> first_;
  std::vector<int64_t> regions_;
};

// ---- Forward.

// Copies a matrix [rows][columns] to [columns][rows], in tiles that fit the first-level cache both ways.
template <typename scalar_t>
ROIPOOL_SIMD void transpose(const scalar_t* from, int64_t from_stride, int64_t rows, int64_t columns, scalar_t* to,
                            int64_t to_stride) {
  constexpr int64_t kTile = 32;
  for (int64_t row = 0; row < rows; row += kTile) {
    const int64_t row_end = std::min(row + kTile, rows);
    for (int64_t column = 0; column < columns; column += kTile) {
      const int64_t column_end = std::min(column + kTile, columns);
      for (int64_t j = column; j < column_end; ++j) {
        for (int64_t i = row; i < row_end; ++i) {
          to[j * to_stride + i] = from[i * from_stride + j];
        }
      }
    }
  }
}

// Pools `channels` adjacent channels (at most kBlock) of one region.
//
//   cells   [H*W] rows of cell_stride elements, the channels at the start of each
//   output  [PH*PW] rows of bin_stride elements, likewise; argmax too, and only where it is not null
template <typename scalar_t>
ROIPOOL_SIMD void pool_channels(const scalar_t* cells, int64_t cell_stride, int64_t channels, int64_t width,
                                const std::vector<Window>& rows, const std::vector<Window>& columns, scalar_t* output,
                                int32_t* argmax, int64_t bin_stride) {
  std::array<scalar_t, kBlock> best;
  std::array<int32_t, kBlock> best_cell;
  for (const Window row : rows) {
    for (const Window column : columns) {
      if (row.empty() || column.empty()) {
        std::fill_n(best.begin(), channels, scalar_t(0));
        std::fill_n(best_cell.begin(), channels, -1);
      } else {
        const int64_t first = row.lo * width + column.lo;
        std::copy_n(cells + first * cell_stride, channels, best.begin());
        std::fill_n(best_cell.begin(), channels, static_cast<int32_t>(first));
        for (int64_t y = row.lo; y < row.hi; ++y) {
          for (int64_t cell = y * width + column.lo; cell < y * width + column.hi; ++cell) {
            const scalar_t* values = cells + cell * cell_stride;
            if (argmax != nullptr) {
              for (int64_t c = 0; c < channels; ++c) {
                const bool better = precedes(best[c], values[c]);
                best[c] = better ? values[c] : best[c];
                best_cell[c] = better ? static_cast<int32_t>(cell) : best_cell[c];
              }
            } else {
              for (int64_t c = 0; c < channels; ++c) {
                best[c] = precedes(best[c], values[c]) ? values[c] : best[c];
              }
            }
          }
        }
      }
      std::copy_n(best.begin(), channels, output);
      output += bin_stride;
      if (argmax != nullptr) {
        std::copy_n(best_cell.begin(), channels, argmax);
        argmax += bin_stride;
      }
    }
  }
}

// Pools one channel of one region from its contiguous plane: for few channels, or few regions.
template <typename scalar_t>
void pool_plane(const scalar_t* plane, int64_t width, const std::vector<Window>& rows,
                const std::vector<Window>& columns, scalar_t* output, int32_t* argmax) {
  for (const Window row : rows) {
    for (const Window column : columns) {
      int64_t best_cell = -1;
      scalar_t best(0);
      if (!row.empty() && !column.empty()) {
        best_cell = row.lo * width + column.lo;
        best = plane[best_cell];
        for (int64_t y = row.lo; y < row.hi; ++y) {
          for (int64_t cell = y * width + column.lo; cell < y * width + column.hi; ++cell) {
            if (precedes(best, plane[cell])) {
              best = plane[cell];
              best_cell = cell;
            }
          }
        }
      }
      *output++ = best;
      if (argmax != nullptr) {
        *argmax++ = static_cast<int32_t>(best_cell);
      }
    }
  }
}

// The bins of a region that has none: 0 and -1.
template <typename scalar_t>
void clear_region(const RoIPoolProblem& problem, int64_t k, scalar_t* output, int32_t* argmax) {
  std::fill_n(output + k * problem.region_stride, problem.region_stride, scalar_t(0));
  if (argmax != nullptr) {
    std::fill_n(argmax + k * problem.region_stride, problem.region_stride, -1);
  }
}

// channels_last: the maps already have the layout that pool_channels wants.
template <typename scalar_t>
void forward_channels_last(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  const auto* input = static_cast<const scalar_t*>(maps.data);
  parallel_for(0, problem.num_rois, grain_of(problem.region_stride), [&](int64_t begin, int64_t end) {
    Bins bins(problem);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = bins.locate(k);
      if (image < 0) {
        clear_region(problem, k, output, argmax);
        continue;
      }
      for (int64_t c = 0; c < problem.channels; c += kBlock) {
        const int64_t to = k * problem.region_stride + c;
        pool_channels(input + image * maps.image_stride + c, maps.cell_stride, std::min(kBlock, problem.channels - c),
                      maps.width, bins.rows(), bins.columns(), output + to, argmax == nullptr ? nullptr : argmax + to,
                      problem.bin_stride);
      }
    }
  });
}

// Contiguous, and enough work to pay for bringing a block of channels of an image into channels_last order first: the
// block then stays in cache while all the image's regions are pooled from it.
template <typename scalar_t>
void forward_blocks(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  const auto* input = static_cast<const scalar_t*>(maps.data);
  const int64_t num_cells = maps.num_cells();
  const int64_t num_bins = problem.num_bins();
  const int64_t blocks = num_blocks(problem.channels);
  const RegionsByImage regions(problem);

  parallel_for(0, maps.num_images * blocks, 1, [&](int64_t begin, int64_t end) {
    Bins bins(problem);
    std::vector<scalar_t> cells(num_cells * kBlock);
    std::vector<scalar_t> values(num_bins * kBlock);
    std::vector<int32_t> indices(argmax == nullptr ? 0 : num_bins * kBlock);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t image = task / blocks;
      const int64_t channel = task % blocks * kBlock;
      const int64_t channels = std::min(kBlock, problem.channels - channel);
      if (regions.begin(image) == regions.end(image)) {
        continue;
      }
      transpose(input + image * maps.image_stride + channel * num_cells, num_cells, channels, num_cells, cells.data(),
                kBlock);
      for (const int64_t* k = regions.begin(image); k != regions.end(image); ++k) {
        if (bins.locate(*k) < 0) {
          continue;
        }
        pool_channels(cells.data(), kBlock, channels, maps.width, bins.rows(), bins.columns(), values.data(),
                      argmax == nullptr ? nullptr : indices.data(), kBlock);
        const int64_t to = *k * problem.region_stride + channel * num_bins;
        transpose(values.data(), kBlock, num_bins, channels, output + to, num_bins);
        if (argmax != nullptr) {
          transpose(indices.data(), kBlock, num_bins, channels, argmax + to, num_bins);
        }
      }
    }
  });

  Bins bins(problem);
  for (int64_t k = 0; k < problem.num_rois; ++k) {
    if (bins.locate(k) < 0) {
      clear_region(problem, k, output, argmax);
    }
  }
}

// Contiguous, plane by plane.
template <typename scalar_t>
void forward_planes(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  const FeatureMaps& maps = problem.maps;
  const auto* input = static_cast<const scalar_t*>(maps.data);
  parallel_for(0, problem.num_rois, grain_of(problem.region_stride), [&](int64_t begin, int64_t end) {
    Bins bins(problem);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = bins.locate(k);
      if (image < 0) {
        clear_region(problem, k, output, argmax);
        continue;
      }
      for (int64_t c = 0; c < problem.channels; ++c) {
        const int64_t to = k * problem.region_stride + c * problem.channel_stride;
        pool_plane(input + image * maps.image_stride + c * maps.channel_stride, maps.width, bins.rows(), bins.columns(),
                   output + to, argmax == nullptr ? nullptr : argmax + to);
      }
    }
  });
}

// output, argmax: [K, C, PH, PW]; argmax may be null
template <typename scalar_t>
void forward(const RoIPoolProblem& problem, scalar_t* output, int32_t* argmax) {
  if (problem.channels_last) {
    forward_channels_last(problem, output, argmax);
  } else if (problem.channels >= kBlock / 4 && problem.num_rois >= 4 * problem.maps.num_images) {
    forward_blocks(problem, output, argmax);
  } else {
    forward_planes(problem, output, argmax);
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
  const int64_t block = problem.channels_last ? kBlock : 1;
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
