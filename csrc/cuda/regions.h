// Describes the regions of a call as place_regions() finds them, once for all blocks. Includes nothing of CUDA.
#pragma once

#include <cstdint>

#include "geometry.h"
#include "host_device.h"
#include "problem.h"

namespace roipool::cuda {

// Says where a region lies.
struct PlacedRegion {
  int64_t k;      // its row of rois
  int64_t image;  // that it lies in; 0 where it is in none, and all its bins are empty
  int64_t level;
};

// So many regions are sorted together: as many as most calls have, but not so many that it takes long to compare each
// with each.
constexpr int64_t kSegmentRegions = 4096;

// Points to regions and to the cells of their bins, all in scratch memory. Segments of kSegmentRegions regions keep the
// order of rois. Within each, the regions are in ascending order of level, image and k.
class PlacedRegions {
 public:
  PlacedRegions(const RoIPoolProblem& problem, void* scratch)
      : pooled_height_(problem.pooled_height),
        pooled_width_(problem.pooled_width),
        regions_(static_cast<PlacedRegion*>(scratch)),
        ranges_(reinterpret_cast<CellRange*>(regions_ + problem.num_rois)) {}

  static int64_t scratch_bytes(const RoIPoolProblem& problem) {
    const int64_t ranges_per_region = problem.pooled_height + problem.pooled_width;
    const auto region_bytes = static_cast<int64_t>(sizeof(PlacedRegion));
    return problem.num_rois * (region_bytes + ranges_per_region * static_cast<int64_t>(sizeof(CellRange)));
  }

  ROIPOOL_HOST_DEVICE PlacedRegion& operator[](int64_t i) const { return regions_[i]; }

  // Return the rows and the columns of cells of region i's bins: [PH] and [PW].
  ROIPOOL_HOST_DEVICE CellRange* rows(int64_t i) const { return ranges_ + i * (pooled_height_ + pooled_width_); }
  ROIPOOL_HOST_DEVICE CellRange* columns(int64_t i) const { return rows(i) + pooled_height_; }

 private:
  int64_t pooled_height_;
  int64_t pooled_width_;
  PlacedRegion* regions_;
  CellRange* ranges_;
};

}  // namespace roipool::cuda
