// Tests that vectors of the CPU compare values by the rule of problem.h: replaces() of simd/order.h is held to it.
#define ROIPOOL_VECTOR_BYTES 16

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "cpu/simd/loops.h"
#include "cpu/simd/order.h"
#include "cpu/simd/vectors.h"
#include "dtypes.h"
#include "expect.h"
#include "problem.h"

using namespace roipool::cpu::simd;

namespace {

// Fills all lanes of a vector with one value, given by its bits, and brings them into their order.
template <typename LaneType, typename scalar_t>
auto lanes_of(scalar_t value) {
  typename LaneType::lane_t lanes[kLanes<typename LaneType::lane_t>];
  for (auto& lane : lanes) {
    std::memcpy(&lane, &value, sizeof lane);
  }
  return swap_order<LaneType>(load<Vector<typename LaneType::lane_t, kLanes<typename LaneType::lane_t>>>(lanes));
}

// Returns what a comparison says in every lane.
template <typename Mask>
bool all_lanes_say(Mask mask) {
  EXPECT_EQ(any_lane(mask), !any_lane(mask == 0));
  return any_lane(mask);
}

template <typename LaneType, typename scalar_t>
SpecialValues special_values_of(scalar_t value) {
  SpecialValueFinder<LaneType> finder;
  finder.look_at(lanes_of<LaneType>(value));
  return finder.found();
}

// Compares each value with each, in vectors and one by one.
template <typename LaneType, typename scalar_t>
void test_pairs(const std::vector<scalar_t>& values) {
  using wide_t = roipool::wide_t<scalar_t>;
  for (const scalar_t value : values) {
    const SpecialValues special_values = special_values_of<LaneType>(value);
    EXPECT_EQ(special_values.has_nan, std::isnan(wide_t(value)));
    EXPECT_EQ(special_values.has_negative_zero, wide_t(value) == 0 && std::signbit(wide_t(value)));
    for (const scalar_t best : values) {
      const bool expected = roipool::replaces<wide_t>(value, best);
      const auto lanes = lanes_of<LaneType>(value);
      const auto best_lanes = lanes_of<LaneType>(best);
      EXPECT_EQ((all_lanes_say(replaces<LaneType, false>(lanes, rank_of<LaneType, false>(best_lanes)))), expected);
      if (greater_decides<LaneType>(special_values) && greater_decides<LaneType>(special_values_of<LaneType>(best))) {
        EXPECT_EQ((all_lanes_say(replaces<LaneType, true>(lanes, best_lanes))), expected);
      }
    }
  }
}

// Returns numbers of either sign around all powers of two, zeros, subnormal numbers, infinities and NaNs.
template <typename Half>
std::vector<Half> half_precision_values() {
  std::vector<Half> values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const uint32_t last = bits & 0x7f;
    if (last <= 1 || last == 0x7f) {
      Half value;
      value.bits = static_cast<uint16_t>(bits);
      values.push_back(value);
    }
  }
  return values;
}

template <typename scalar_t>
std::vector<scalar_t> values() {
  using limits = std::numeric_limits<scalar_t>;
  std::vector<scalar_t> values;
  for (const scalar_t value : {scalar_t(0), limits::denorm_min(), limits::min(), scalar_t(1), scalar_t(1.5),
                               limits::max(), limits::infinity(), limits::quiet_NaN()}) {
    values.push_back(value);
    values.push_back(-value);
  }
  return values;
}

}  // namespace

int main() {
  test_pairs<Float32Lanes>(values<float>());
  test_pairs<Float64Lanes>(values<double>());
  test_pairs<Float16Lanes>(half_precision_values<roipool::Float16>());
  test_pairs<BFloat16Lanes>(half_precision_values<roipool::BFloat16>());
}
