// Tests which way a forward goes on a CUDA device, and how contiguous maps are shared out. The numbers were worked out
// by hand from the sizes.
#include <cstdint>

#include "cuda/forward.h"
#include "cuda_problem.h"
#include "expect.h"
#include "problem.h"

using namespace roipool;
using namespace roipool::cuda;

namespace {

RoIPoolProblem of_dtype(RoIPoolProblem problem, DType dtype) {
  problem.dtype = dtype;
  return problem;
}

void test_ways() {
  EXPECT_EQ(choose_way(problem_of(2, 256, 50, 84), true), ForwardWay::kColumns);
  EXPECT_EQ(choose_way(problem_of(2, 256, 50, 84), false), ForwardWay::kColumns);
  const auto way_of = [](int64_t num_channels, DType dtype, bool is_aligned) {
    return choose_way(channels_last(of_dtype(problem_of(2, num_channels, 50, 84), dtype)), is_aligned);
  };
  EXPECT_EQ(way_of(4, DType::kFloat32, true), ForwardWay::kChannelsLastByVectors);
  EXPECT_EQ(way_of(4, DType::kFloat32, false), ForwardWay::kChannelsLast);
  EXPECT_EQ(way_of(6, DType::kFloat32, true), ForwardWay::kChannelsLast);
  EXPECT_EQ(way_of(6, DType::kFloat64, true), ForwardWay::kChannelsLastByVectors);
  EXPECT_EQ(way_of(3, DType::kFloat64, true), ForwardWay::kChannelsLast);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    EXPECT_EQ(way_of(16, dtype, true), ForwardWay::kChannelsLastByVectors);
    EXPECT_EQ(way_of(12, dtype, true), ForwardWay::kChannelsLast);
  }
}

void expect_columns(const RoIPoolProblem& problem, bool has_argmax, int64_t group_channels, int64_t num_groups,
                    int64_t num_shares, int64_t share_regions) {
  const ColumnsPlan plan = plan_columns(problem, has_argmax, kHopper);
  EXPECT_EQ(plan.group_channels, group_channels);
  EXPECT_EQ(plan.num_groups, num_groups);
  EXPECT_EQ(plan.num_shares, num_shares);
  EXPECT_EQ(plan.share_regions, share_regions);
}

// 132 multiprocessors want 1056 blocks.
void test_columns() {
  expect_columns(problem_of(2, 256, 50, 84, 1000), true, 4, 64, 17, 59);  // 17 shares make 1088 blocks
  expect_columns(problem_of(2, 256, 50, 84, 1000), false, 8, 32, 33, 31);
  expect_columns(problem_of(2, 2048, 25, 42, 1000), true, 4, 512, 3, 334);  // 3 shares make 1536 blocks, 2 too few
  expect_columns(problem_of(2, 8192, 25, 42, 1000), true, 4, 2048, 1, 1000);
  expect_columns(problem_of(1, 6, 50, 84, 100), true, 4, 2, 13, 8);  // a region for each of 8 warps
  expect_columns(problem_of(1, 6, 50, 84, 100), false, 8, 1, 13, 8);
  expect_columns(problem_of(1, 4, 50, 84, 100), false, 4, 1, 13, 8);  // one vector holds them all
  expect_columns(problem_of(1, 6, 50, 84, 3), true, 4, 2, 1, 8);
  const RoIPoolProblem half = of_dtype(problem_of(2, 256, 50, 84, 1000), DType::kBFloat16);
  expect_columns(half, true, 4, 64, 17, 59);  // maxima are float
  expect_columns(half, false, 8, 32, 33, 31);
  expect_columns(of_dtype(problem_of(2, 256, 50, 84, 1000), DType::kFloat64), true, 2, 128, 9, 112);
}

void test_shares_that_are_asked_for() {
  EXPECT_EQ(plan_columns(problem_of(2, 256, 50, 84, 1000), false, kHopper, 512).num_shares, 2);
  EXPECT_EQ(plan_columns(problem_of(2, 256, 50, 84, 1000), false, kHopper, 3).num_shares, 334);
}

}  // namespace

int main() {
  test_ways();
  test_columns();
  test_shares_that_are_asked_for();
}
