// Tests how the backward is shared out on a CUDA device. The numbers were worked out by hand from the sizes.
//
// Beside its sums, a block has 18464 bytes in shared memory (2048 of starts, 2048 gradients and cells, 32 of counts),
// or 26656 where sums are double. kHopper has room for 53496 float sums, or 25724 double ones.
#include <cstdint>

#include "cuda/backward.h"
#include "cuda_problem.h"
#include "expect.h"
#include "problem.h"

using namespace roipool;
using namespace roipool::cuda;

namespace {

ScatterPlan plan_of(const RoIPoolProblem& problem, const DeviceLimits& device = kHopper) {
  return plan_scatter(problem, problem.levels[0], device);
}

void test_channels_of_a_block() {
  // Of 512 planes, contiguous: 2 channels would make 256 blocks, fewer than 2 for each multiprocessor.
  const RoIPoolProblem fpn = problem_of(2, 256, 50, 84);
  const ScatterPlan contiguous = plan_of(fpn);
  EXPECT_EQ(contiguous.num_channels, 1);
  EXPECT_EQ(contiguous.batch_bins, 2048);
  EXPECT_EQ(contiguous.num_groups, 256);
  EXPECT_EQ(contiguous.num_parts, 1);
  EXPECT_EQ(contiguous.num_cells, 4200);
  EXPECT_EQ(contiguous.shared_bytes, 18464 + 4200 * 4);
  EXPECT_EQ(contiguous.num_blocks(fpn), 512);

  // Channels that are adjacent stay together, as many as fit.
  const ScatterPlan adjacent = plan_of(channels_last(fpn));
  EXPECT_EQ(adjacent.num_channels, 8);
  EXPECT_EQ(adjacent.batch_bins, 256);
  EXPECT_EQ(adjacent.num_groups, 32);
  EXPECT_EQ(adjacent.shared_bytes, 18464 + 8 * 4200 * 4);
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 256, 1, 6687))).num_channels, 8);  // 53496 sums
  EXPECT_EQ(plan_of(channels_last(problem_of(2, 256, 1, 6688))).num_channels, 4);

  EXPECT_EQ(plan_of(problem_of(11, 192, 7, 7)).num_channels, 8);  // 264 blocks: 2 for each multiprocessor
  EXPECT_EQ(plan_of(problem_of(11, 184, 7, 7)).num_channels, 4);
}

void test_sums_are_wider_than_halves() {
  RoIPoolProblem problem = channels_last(problem_of(2, 256, 50, 84));
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    problem.dtype = dtype;
    EXPECT_EQ(plan_of(problem).shared_bytes, 18464 + 8 * 4200 * 4);
  }
  problem.dtype = DType::kFloat64;
  EXPECT_EQ(plan_of(problem).num_channels, 4);
  EXPECT_EQ(plan_of(problem).shared_bytes, 26656 + 4 * 4200 * 8);
}

void test_planes_larger_than_shared_memory() {
  const RoIPoolProblem problem = problem_of(2, 3, 30, 30);
  const ScatterPlan plan = plan_of(problem, {19 * 1024, 4});  // room for 248 sums
  EXPECT_EQ(plan.num_channels, 1);
  EXPECT_EQ(plan.num_parts, 4);
  EXPECT_EQ(plan.num_cells, 225);
  EXPECT_EQ(plan.shared_bytes, 18464 + 225 * 4);
  EXPECT_EQ(plan.num_blocks(problem), 2 * 3 * 4);
  // Where there is no room at all, the plan asks for more than there is, and the launch is refused.
  EXPECT_EQ(plan_of(problem, {1024, 4}).shared_bytes, 18464 + 4);
  EXPECT_EQ(plan_of(problem_of(2, 3, 0, 30)).num_blocks(problem), 0);
}

void expect_bins(int64_t pooled_height, int64_t pooled_width, int scanned_regions, uint32_t piece_bins,
                 uint32_t num_pieces) {
  RoIPoolProblem problem = problem_of(1, 1, 7, 7);
  problem.pooled_height = pooled_height;
  problem.pooled_width = pooled_width;
  EXPECT_EQ(plan_of(problem).scanned_regions, scanned_regions);
  EXPECT_EQ(plan_of(problem).piece_bins, piece_bins);
  EXPECT_EQ(plan_of(problem).num_pieces, num_pieces);
}

// No more than 2^32 - 1 - 2048 = 4294965247 bins are listed together, so that 32 bits count the bins of a last batch.
void test_bins_are_counted_in_32_bits() {
  expect_bins(7, 7, 256, 49, 1);
  expect_bins(1, 16777207, 256, 16777207, 1);
  expect_bins(1, 16777208, 255, 16777208, 1);  // 256 regions would have 4294965248 bins
  expect_bins(1, 2147483647, 1, 2147483647, 1);
  expect_bins(1, 4294965247, 1, 4294965247, 1);
  expect_bins(1, 4294965248, 1, 4294965247, 2);
  expect_bins(131072, 131072, 1, 4294965247, 5);  // 2^34 bins
}

}  // namespace

int main() {
  test_channels_of_a_block();
  test_sums_are_wider_than_halves();
  test_planes_larger_than_shared_memory();
  test_bins_are_counted_in_32_bits();
}
