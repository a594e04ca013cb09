// Describes a feature pyramid as the operators take it.
#pragma once

#include <cstdint>
#include <vector>

namespace roipool {

// Holds what a pyramid has beside its maps.
struct Pyramid {
  std::vector<double> spatial_scales;  // of each level
  double canonical_scale = 1;
  int64_t canonical_level = 0;
};

}  // namespace roipool
