// Sums the cells of a tile, a lane to a channel: for channels_last gradients, which lie side by side.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/backward.h"
#include "cuda/backward_tiles.cuh"
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"
#include "problem.h"

namespace roipool::cuda {

constexpr int kBinsAhead = 8;  // bins whose gradients are loaded while as many are added

// Sums the cells of a tile in up to kWarp adjacent channels: a lane has a channel, and takes bin after bin. Its
// functions are for a whole warp.
template <typename scalar_t>
class ChannelAdder {
 public:
  using sum_t = wide_t<scalar_t>;

  // memory  see summing_bytes()
  __device__ ChannelAdder(const RoIPoolProblem& problem, const MapTile& tile, int64_t first_channel,
                          unsigned char* memory, const scalar_t* grad_output, const int32_t* argmax)
      : problem_(problem),
        tile_(tile),
        c_(first_channel + lane()),
        num_cells_(tile.num_cells()),
        runs_(reinterpret_cast<BinRun*>(memory)),
        sums_(reinterpret_cast<sum_t*>(runs_ + kMaxRuns) + lane()),
        grad_output_(grad_output + c_),
        argmax_(argmax + c_) {
    for (int32_t i = 0; i < num_cells_; ++i) {
      sums_[i * kWarp] = 0;
    }
  }

  __device__ BinRun* runs() const { return runs_; }

  // Adds the gradients of listed bins, in order.
  __device__ void add(uint32_t num_bins) {
    run_ = runs_;
    begin_run();
    NextBins next = load(0, num_bins);
    for (uint32_t first = 0; first < num_bins; first += kBinsAhead) {
      const NextBins bins = next;
      next = load(first + kBinsAhead, num_bins);
      ROIPOOL_UNROLL_BY(kBinsAhead)
      for (int i = 0; i < kBinsAhead; ++i) {
        sums_[bins.cells[i] * kWarp] += static_cast<sum_t>(bins.grads[i]);
      }
    }
    __syncwarp();  // before other runs replace these
  }

  __device__ void write() const {
    if (c_ >= problem_.num_channels) {
      return;
    }
    const FeatureMaps& maps = problem_.levels[tile_.level];
    const int32_t width = tile_.cells.columns.hi - tile_.cells.columns.lo;
    scalar_t* grad_input = tile_.template first_of<scalar_t>(maps) + c_;
    const sum_t* sum = sums_;
    for (int32_t first = 0; first < num_cells_; first += width, grad_input += maps.width * maps.cell_stride) {
      for (int32_t x = 0; x < width; ++x, sum += kWarp) {
        grad_input[x * maps.cell_stride] = static_cast<scalar_t>(*sum);
      }
    }
  }

 private:
  // Holds what a lane adds next.
  struct NextBins {
    int32_t cells[kBinsAhead];  // of the tile, or the one beyond, whose sum is of no use
    scalar_t grads[kBinsAhead];
  };

  // Loads bins from number `first` on.
  __device__ NextBins load(uint32_t first, uint32_t num_bins) {
    NextBins bins;
    ROIPOOL_UNROLL_BY(kBinsAhead)
    for (int i = 0; i < kBinsAhead; ++i) {
      int32_t cell = -1;
      bins.grads[i] = scalar_t(0);
      if (first + i < num_bins) {
        if (c_ < problem_.num_channels) {
          cell = argmax_[at_];
          bins.grads[i] = grad_output_[at_];
        }
        advance(first + i + 1, num_bins);
      }
      cell = tile_.find(cell);
      bins.cells[i] = cell >= 0 ? cell : num_cells_;
    }
    return bins;
  }

  __device__ void begin_run() {
    at_ = run_->from;
    left_in_row_ = static_cast<uint32_t>(problem_.pooled_width) - run_->skip;
  }

  // Goes on to number `bin`: to the next bin of a row, of the next row, or of the next run.
  __device__ void advance(uint32_t bin, uint32_t num_bins) {
    at_ += problem_.output_bin_stride;
    if (--left_in_row_ > 0 || bin == num_bins) {
      return;
    }
    if (bin == run_->end) {
      ++run_;
      begin_run();
    } else {
      at_ += run_->skip * problem_.output_bin_stride;
      left_in_row_ = static_cast<uint32_t>(problem_.pooled_width) - run_->skip;
    }
  }

  const RoIPoolProblem& problem_;
  const MapTile tile_;
  const int64_t c_;  // the channel of this lane, which may be beyond the last
  const int32_t num_cells_;
  BinRun* const runs_;
  sum_t* const sums_;  // of this lane
  const scalar_t* const grad_output_;
  const int32_t* const argmax_;
  const BinRun* run_ = nullptr;  // of the next bin
  int64_t at_ = 0;               // where the next bin lies in grad_output and argmax
  uint32_t left_in_row_ = 0;     // bins, the next one included
};

}  // namespace roipool::cuda
