// Prices the ways of a forward: how long each takes on one thread, in nanoseconds, by what it has to do.
//
// benchmarks/fit_costs.py times every way on random problems, and fits the prices. They need not be right for every
// processor: they tell the ways apart where one takes several times as long as another, and say whether there is work
// for a second thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"

namespace roipool::cpu {

// Counts what there is to do, for one channel.
struct ForwardWork {
  int64_t num_channels;
  int64_t group_channels;  // of a channel group
  int64_t vector_lanes;    // of the widest register
  int64_t map_width;       // in cells
  int64_t num_cells;       // of the maps of all images
  bool channels_last;
  bool half_precision;
  bool with_argmax;

  // Of all regions together:
  int64_t num_regions;
  int64_t num_bins;
  int64_t num_visits;        // of cells: once for each bin that a cell is in
  int64_t num_part_cells;    // of the rectangles that the regions lie in
  int64_t num_part_vectors;  // of vector_lanes cells side by side in these rectangles
  int64_t num_bin_vectors;   // of vector_lanes cells side by side in bins

  // By rows, with rows of cells reduced side by side, then columns of as many rows of bins as a register has lanes:
  int64_t num_row_vectors;
  int64_t num_row_squares;  // that are transposed in between
  int64_t num_column_vectors;

  // Counts the registers that the channels of a cell fill.
  int64_t num_vectors() const { return divide_up(num_channels, vector_lanes); }
  int64_t num_groups() const { return divide_up(num_channels, group_channels); }
};

// Is the price of one thing to do, in nanoseconds.
struct Price {
  double base;
  double argmax;          // on top, where argmax is recorded
  double half_precision;  // on top, for half precision

  double times(const ForwardWork& work, int64_t count) const {
    return (base + (work.with_argmax ? argmax : 0) + (work.half_precision ? half_precision : 0)) *
           static_cast<double>(count);
  }
};

// ---- By channel groups.

inline double cost_of_packing_maps(const ForwardWork& work) {
  constexpr Price kCell = {1.4, 0, 0.93};  // of a register of channels
  constexpr Price kChannelsLastCell = {1.5, 0, 0};
  return (work.channels_last ? kChannelsLastCell : kCell).times(work, work.num_vectors() * work.num_cells);
}

inline double cost_of_packing_parts(const ForwardWork& work) {
  constexpr Price kSquare = {31, 5.8, 31};  // a register of channels of each of the cells side by side
  constexpr Price kChannelsLastCell = {1.7, 0, 0};
  return work.channels_last ? kChannelsLastCell.times(work, work.num_vectors() * work.num_part_cells)
                            : kSquare.times(work, work.num_vectors() * work.num_part_vectors);
}

// Holds what pooling the bins of regions costs.
struct GroupPrices {
  Price visit;      // of a register of channels
  Price bin;        // of a register of channels
  Price group_bin;  // of a channel group
  Price region;     // of a channel group

  double of(const ForwardWork& work) const {
    return visit.times(work, work.num_vectors() * work.num_visits) +
           bin.times(work, work.num_vectors() * work.num_bins) +
           group_bin.times(work, work.num_groups() * work.num_bins) +
           region.times(work, work.num_groups() * work.num_regions);
  }
};

inline double cost_of_pooling_packed_maps(const ForwardWork& work) {
  return GroupPrices{{0.55, 1.0, 0.54}, {3.2, 3.9, 0}, {2.6, 0, 0}, {55, 0, 0}}.of(work);
}

inline double cost_of_pooling_packed_parts(const ForwardWork& work) {
  return GroupPrices{{1.2, 0.5, 1.4}, {0.4, 4.2, 0}, {4.0, 0.3, 0}, {170, 0, 0}}.of(work);
}

inline double cost_of_pooling_in_place(const ForwardWork& work) {
  return GroupPrices{{1.8, 0.2, 1.3}, {0.8, 4.3, 3.4}, {3.8, 1.7, 0}, {56, 0, 0}}.of(work);
}

// ---- Channel by channel.

inline double cost_of_pooling_rows(const ForwardWork& work) {
  constexpr Price kCell = {0.34, 0, 0};
  constexpr Price kChannelsLastCell = {0.98, 0, 0};
  constexpr Price kRowVector = {1.8, 0.67, 0};
  constexpr Price kRowSquare = {0, 62, 0};
  constexpr Price kColumnVector = {1.3, 0.13, 0};
  constexpr Price kBin = {1.2, 0.61, 0};
  constexpr Price kRegion = {85, 0, 0};
  const int64_t num_cells = std::min(work.num_part_cells, work.num_cells);
  return (work.channels_last ? kChannelsLastCell : kCell).times(work, work.num_channels * num_cells) +
         kRowVector.times(work, work.num_channels * work.num_row_vectors) +
         kRowSquare.times(work, work.num_channels * work.num_row_squares) +
         kColumnVector.times(work, work.num_channels * work.num_column_vectors) +
         kBin.times(work, work.num_channels * work.num_bins) +
         kRegion.times(work, work.num_channels * work.num_regions);
}

inline double cost_of_pooling_cells(const ForwardWork& work) {
  constexpr Price kVector = {1.2, 0.83, 1.3};  // of the cells of a bin's row
  constexpr Price kBin = {2.3, 3.8, 0.8};
  constexpr Price kChannelsLastVisit = {0.99, 0, 0};
  constexpr Price kChannelsLastBin = {5.4, 0, 0};
  constexpr Price kRegion = {24, 0, 0};
  const double pooling = work.channels_last ? kChannelsLastVisit.times(work, work.num_channels * work.num_visits) +
                                                  kChannelsLastBin.times(work, work.num_channels * work.num_bins)
                                            : kVector.times(work, work.num_channels * work.num_bin_vectors) +
                                                  kBin.times(work, work.num_channels * work.num_bins);
  return pooling + kRegion.times(work, work.num_channels * work.num_regions);
}

}  // namespace roipool::cpu
