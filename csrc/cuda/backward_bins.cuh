// Sums the cells of a tile, a lane to a bin: for contiguous gradients.
//
// Lanes meet where several bins have their maximum in one cell. The last of them adds for all, in their order.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/backward.h"
#include "cuda/backward_tiles.cuh"
#include "cuda/launch.cuh"
#include "cuda/warp.cuh"
#include "problem.h"

namespace roipool::cuda {

constexpr int kStepsAhead = 4;  // steps whose gradients are loaded while as many are added

// Sums the cells of a tile in one channel: a lane has a bin. Its functions are for a whole warp.
template <typename scalar_t>
class BinAdder {
 public:
  using sum_t = wide_t<scalar_t>;

  // memory  see summing_bytes()
  __device__ BinAdder(const RoIPoolProblem& problem, const MapTile& tile, int64_t c, unsigned char* memory,
                      const scalar_t* grad_output, const int32_t* argmax)
      : problem_(problem),
        tile_(tile),
        c_(c),
        num_cells_(tile.num_cells()),
        runs_(reinterpret_cast<BinRun*>(memory)),
        given_(reinterpret_cast<sum_t*>(runs_ + kMaxRuns)),
        sums_(given_ + 2 * kMaxGivenGrads * kWarp),
        grad_output_(grad_output + c * problem.output_channel_stride),
        argmax_(argmax + c * problem.output_channel_stride) {
    for (int32_t i = lane(); i < num_cells_; i += kWarp) {
      sums_[i] = 0;
    }
    __syncwarp();
  }

  __device__ BinRun* runs() const { return runs_; }

  // Adds the gradients of listed bins, in order.
  __device__ void add(uint32_t num_bins) {
    run_ = runs_;
    own_run_ = *run_;
    Steps next = load(0, num_bins);
    for (uint32_t first = 0; first < num_bins; first += kStepsAhead * kWarp) {
      const Steps steps = next;
      next = load(first + kStepsAhead * kWarp, num_bins);
      unsigned peers[kStepsAhead];  // lanes at the same cell: found first, since this needs no sums
      ROIPOOL_UNROLL_BY(kStepsAhead)
      for (int step = 0; step < kStepsAhead; ++step) {
        peers[step] = __match_any_sync(kAllLanes, steps.cells[step]);
      }
      ROIPOOL_UNROLL_BY(kStepsAhead)
      for (int step = 0; step < kStepsAhead; ++step) {
        add_step(steps.cells[step], static_cast<sum_t>(steps.grads[step]), peers[step], step % 2);
      }
    }
    __syncwarp();  // before sums are read by other lanes, and before other runs replace these
  }

  __device__ void write() const {
    const FeatureMaps& maps = problem_.levels[tile_.level];
    const int32_t width = tile_.cells.columns.hi - tile_.cells.columns.lo;
    scalar_t* grad_input = tile_.template first_of<scalar_t>(maps) + c_ * maps.channel_stride;
    for (int32_t first = 0; first < num_cells_; first += width, grad_input += maps.width * maps.cell_stride) {
      for (int32_t x = lane(); x < width; x += kWarp) {
        grad_input[x * maps.cell_stride] = static_cast<scalar_t>(sums_[first + x]);
      }
    }
    __syncwarp();  // before the next turn clears the sums
  }

 private:
  // Holds what a lane adds in some steps.
  struct Steps {
    int32_t cells[kStepsAhead];  // of the tile, or beyond: the sum that is of no use
    scalar_t grads[kStepsAhead];
  };

  // Loads a lane's bins from number `first` on.
  __device__ Steps load(uint32_t first, uint32_t num_bins) {
    Steps steps;
    ROIPOOL_UNROLL_BY(kStepsAhead)
    for (int step = 0; step < kStepsAhead; ++step) {
      const uint32_t bin = first + step * kWarp + lane();
      int32_t cell = -1;
      steps.grads[step] = scalar_t(0);
      if (bin < num_bins) {
        while (bin >= own_run_.end) {
          own_run_ = *++run_;
        }
        const uint32_t of_run = bin - own_run_.begin;
        const auto row = static_cast<uint32_t>((static_cast<float>(of_run) + 0.5f) * own_run_.rows_per_bin);
        const int64_t from =
            own_run_.from + (of_run + static_cast<int64_t>(row) * own_run_.skip) * problem_.output_bin_stride;
        cell = argmax_[from];
        steps.grads[step] = grad_output_[from];
      }
      cell = tile_.find(cell);
      steps.cells[step] = cell >= 0 ? cell : num_cells_ + lane();
    }
    return steps;
  }

  // Adds a gradient of each lane. The last of the lanes at a cell adds for all of them, in ascending order: the others
  // give it their gradients, kMaxGivenGrads at a time. Sums are read after the barrier, so that those of the step
  // before are there; given gradients go to one buffer in even steps and to another one in odd ones, so that none is
  // replaced before it is read.
  __device__ void add_step(int32_t cell, sum_t grad, unsigned peers, int parity) const {
    sum_t* const given = given_ + parity * kMaxGivenGrads * kWarp;
    const int adder = kWarp - 1 - __clz(static_cast<int>(peers));
    const bool is_adder = adder == lane();
    int rank = __popc(peers & lanes_below());  // among the lanes whose turn is not over
    give(given, is_adder, adder, rank, grad);
    __syncwarp();
    sum_t sum = sums_[is_adder ? cell : num_cells_ + lane()];
    take(given, rank, &sum);
    while (__any_sync(kAllLanes, rank > kMaxGivenGrads)) {
      rank -= kMaxGivenGrads;
      __syncwarp();  // before other gradients replace these
      give(given, is_adder, adder, rank, grad);
      __syncwarp();
      take(given, rank, &sum);
    }
    if (is_adder) {
      sums_[cell] = sum + grad;
    }
  }

  __device__ static void give(sum_t* given, bool is_adder, int adder, int rank, sum_t grad) {
    if (!is_adder && static_cast<unsigned>(rank) < kMaxGivenGrads) {
      given[rank * kWarp + adder] = grad;
    }
  }

  // Adds the gradients that an adder is given. What other lanes make of their sums is of no use.
  __device__ static void take(const sum_t* given, int rank, sum_t* sum) {
    ROIPOOL_UNROLL_BY(kMaxGivenGrads)
    for (int i = 0; i < kMaxGivenGrads; ++i) {
      const sum_t grad = given[i * kWarp + lane()];
      *sum += i < rank ? grad : -sum_t(0);  // the zero that changes no sum
    }
  }

  const RoIPoolProblem& problem_;
  const MapTile tile_;
  const int64_t c_;
  const int32_t num_cells_;
  BinRun* const runs_;
  sum_t* const given_;
  sum_t* const sums_;
  const scalar_t* const grad_output_;  // of the channel
  const int32_t* const argmax_;        // of the channel
  const BinRun* run_ = nullptr;        // of the bin that this lane loaded last
  BinRun own_run_{};                   // *run_
};

}  // namespace roipool::cuda
