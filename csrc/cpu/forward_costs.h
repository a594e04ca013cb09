// Prices the ways of a forward: how long each takes on one thread, in nanoseconds, by what it has to do.
//
// The constants were fitted by benchmarks/fit_costs.py, which times every way on random problems. They need not be
// right: only which of two prices is lower matters, and whether there is work for another thread.
#pragma once

#include <algorithm>
#include <cstdint>

#include "arithmetic.h"

namespace roipool::cpu {

// Counts what there is to do, for one channel.
struct ForwardWork {
  int64_t num_channels;
  int64_t group_channels;   // of a channel group
  int64_t vector_lanes;     // of the widest register
  int64_t map_width;        // in cells
  int64_t num_cells;        // of the maps of all images
  bool channels_last;
  bool half_precision;
  bool with_argmax;
  int64_t num_regions;
  int64_t num_bins;         // of all regions together, as everything below
  int64_t num_part_cells;   // of the rectangles that the regions lie in
  int64_t num_part_rows;    // of these rectangles
  int64_t num_part_squares; // of vector_lanes adjacent cells, in all rows of these rectangles
  int64_t num_visits;       // of cells, once for each bin that a cell is in
  int64_t num_row_vectors;  // of vector_lanes adjacent cells, once for each bin that they are in along the rows
  int64_t num_row_squares;  // of row_vectors that are transposed
  int64_t num_column_vectors;

  // Counts the registers that the channels of a cell fill.
  int64_t num_vectors() const { return divide_up(num_channels, vector_lanes); }
  int64_t num_groups() const { return divide_up(num_channels, group_channels); }
};

inline double cost_of_packing_maps(const ForwardWork& work) {
  const double per_cell = work.channels_last ? 1.0 : 1.5;
  return static_cast<double>(work.num_vectors() * work.num_cells) * per_cell;
}

inline double cost_of_packing_parts(const ForwardWork& work) {
  const auto vectors = static_cast<double>(work.num_vectors());
  return work.channels_last ? vectors * static_cast<double>(work.num_part_cells) * 1.0
                            : vectors * static_cast<double>(work.num_part_squares) * 25;
}

inline double cost_of_pooling_packed(const ForwardWork& work) {
  const double per_visit = work.with_argmax ? 0.5 : 0.3;
  const double per_bin = work.with_argmax ? 6 : 4;
  return static_cast<double>(work.num_vectors()) *
             (per_visit * static_cast<double>(work.num_visits) + per_bin * static_cast<double>(work.num_bins)) +
         static_cast<double>(work.num_groups() * work.num_regions) * 40;
}

inline double cost_of_pooling_in_place(const ForwardWork& work) {
  const double per_visit = work.with_argmax ? 0.8 : 0.5;
  const double per_bin = work.with_argmax ? 6 : 4;
  return static_cast<double>(work.num_vectors()) *
             (per_visit * static_cast<double>(work.num_visits) + per_bin * static_cast<double>(work.num_bins)) +
         static_cast<double>(work.num_groups() * work.num_regions) * 40;
}

inline double cost_of_pooling_rows(const ForwardWork& work) {
  return static_cast<double>(work.num_channels) *
         (static_cast<double>(work.num_regions) * 40 + static_cast<double>(work.num_row_vectors) * 0.5 +
          static_cast<double>(work.num_row_squares) * 30 + static_cast<double>(work.num_column_vectors) * 0.5 +
          static_cast<double>(work.num_bins) * 1);
}

inline double cost_of_pooling_cells(const ForwardWork& work) {
  return static_cast<double>(work.num_channels) *
         (static_cast<double>(work.num_bins) * 5 + static_cast<double>(work.num_visits) * 1.5);
}

}  // namespace roipool::cpu
