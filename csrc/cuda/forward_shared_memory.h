// Lays out what a block of the forward from shared memory keeps there: the cells of a channel group, then the lists of
// the regions that it pools. Includes nothing of CUDA, since plans need the sizes.
#pragma once

#include <cstdint>

#include "cuda/device_limits.h"
#include "host_device.h"

namespace roipool::cuda {

constexpr int kListedRegions = 1024;  // regions that are pooled from one copy of the planes, at most
constexpr int kScannedRegions = 512;  // regions that are looked at together, to list those of an image
constexpr int kPlacedRanges = 512;    // rows and columns of bins that are placed together, at most
constexpr int kMaxMerges = 3;         // merges of squares of cells: the sides of the squares grow to 2, 4 and 8 cells

// Is a CellRange of a map that fits in shared memory.
struct ShortCellRange {
  int16_t lo;
  int16_t hi;

  ROIPOOL_HOST_DEVICE bool empty() const { return hi <= lo; }
};

struct SharedForwardLists {
  ShortCellRange ranges[kPlacedRanges];  // of some regions: for each, those of its PH bin rows and PW bin columns
  uint32_t regions[kListedRegions];
  uint16_t by_num_merges[kListedRegions];  // indices of `regions`, those with the fewest merges first
  uint8_t num_merges[kListedRegions];      // how many merges the bins of a region allow
  int32_t num_listed;                      // elements of `regions`
  int32_t num_regions[kMaxMerges + 1];     // regions for each number of merges
  int32_t num_sorted[kMaxMerges + 1];      // those of them that are in by_num_merges already
  int32_t needs_rule;                      // whether replaces() must decide: see copy_planes()
};

constexpr int64_t shared_forward_bytes(int64_t num_cells) {
  return num_cells * kVectorBytes + static_cast<int64_t>(sizeof(SharedForwardLists));
}

}  // namespace roipool::cuda
