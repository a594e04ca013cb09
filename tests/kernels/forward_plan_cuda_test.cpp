// Tests which way a forward goes on a CUDA device. The numbers were worked out by hand from the sizes.
#include <cstdint>

#include "cuda/forward.h"
#include "cuda_problem.h"
#include "expect.h"
#include "problem.h"

using namespace roipool;
using namespace roipool::cuda;

namespace {

constexpr DeviceLimits kSingle{232448, 1};  // with one multiprocessor, which any block keeps busy

RoIPoolProblem of_dtype(RoIPoolProblem problem, DType dtype) {
  problem.dtype = dtype;
  return problem;
}

ForwardWay way_of(const RoIPoolProblem& problem, const DeviceLimits& device, bool is_aligned = true,
                  bool may_use_shared_memory = true) {
  return plan_forward(problem, device, is_aligned, may_use_shared_memory).way;
}

void test_plans_of_whole_problems() {
  // 4200 cells of 16 bytes and 9256 bytes of lists: 3 blocks fit on a multiprocessor, and 3 shares of the regions make
  // 3 * 132 blocks at most, for 128 pairs of an image and a channel group.
  const ForwardPlan fpn = plan_forward(problem_of(2, 256, 50, 84, 1000, 7, 7), kHopper, true, true);
  EXPECT_EQ(fpn.way, ForwardWay::kSharedMemory);
  EXPECT_EQ(fpn.shared.num_groups, 64);
  EXPECT_EQ(fpn.shared.num_shares, 3);
  EXPECT_EQ(fpn.shared.shared_bytes, 4200 * 16 + 9256);
  EXPECT_EQ(fpn.shared.num_threads, 320);  // 1024 / 3, in whole warps
  EXPECT_EQ(fpn.shared.num_blocks(problem_of(2, 256, 50, 84, 1000, 7, 7)), 384);

  // Twice as many bins as cells: no more than 2 shares, although 4 blocks would fit on each multiprocessor.
  const ForwardPlan few = plan_forward(problem_of(1, 256, 14, 14, 8, 7, 7), kHopper, true, true);
  EXPECT_EQ(few.way, ForwardWay::kSharedMemory);
  EXPECT_EQ(few.shared.num_shares, 2);
  EXPECT_EQ(few.shared.num_threads, 1024);  // 128 blocks: one for each multiprocessor

  // More channel groups than a wave of blocks holds: all regions are one share.
  const ForwardPlan many = plan_forward(problem_of(8, 2048, 14, 14, 800, 7, 7), kHopper, true, true);
  EXPECT_EQ(many.shared.num_groups, 512);
  EXPECT_EQ(many.shared.num_shares, 1);
  EXPECT_EQ(many.shared.num_threads, 256);  // 4 blocks on each multiprocessor
}

void test_a_bin_for_each_cell() {
  EXPECT_EQ(way_of(problem_of(1, 512, 7, 7, 1, 7, 7), kHopper), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(problem_of(1, 512, 7, 7, 1, 6, 8), kHopper), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(problem_of(2, 512, 7, 7, 1, 7, 7), kHopper), ForwardWay::kContiguous);  // 98 cells
  EXPECT_EQ(way_of(problem_of(2, 512, 7, 7, 2, 7, 7), kHopper), ForwardWay::kSharedMemory);
}

void test_a_block_for_every_two_multiprocessors() {
  EXPECT_EQ(way_of(problem_of(1, 264, 7, 7, 1, 7, 7), kHopper), ForwardWay::kSharedMemory);  // 66 blocks
  EXPECT_EQ(way_of(problem_of(1, 260, 7, 7, 1, 7, 7), kHopper), ForwardWay::kContiguous);    // 65
  EXPECT_EQ(way_of(problem_of(1, 260, 7, 7, 2, 7, 7), kHopper), ForwardWay::kSharedMemory);  // 2 shares
}

void test_channels() {
  EXPECT_EQ(way_of(problem_of(1, 3, 7, 7, 9, 7, 7), kSingle), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 9, 7, 7), kSingle), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(problem_of(1, 5, 7, 7, 9, 7, 7), kSingle), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(channels_last(problem_of(1, 4, 7, 7, 9, 7, 7)), kSingle), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(channels_last(problem_of(1, 5, 7, 7, 9, 7, 7)), kSingle), ForwardWay::kChannelsLast);
  for (const DType dtype : {DType::kFloat16, DType::kBFloat16}) {
    EXPECT_EQ(way_of(of_dtype(problem_of(1, 7, 7, 7, 9, 7, 7), dtype), kSingle), ForwardWay::kContiguous);
    EXPECT_EQ(way_of(of_dtype(problem_of(1, 8, 7, 7, 9, 7, 7), dtype), kSingle), ForwardWay::kSharedMemory);
    EXPECT_EQ(way_of(channels_last(of_dtype(problem_of(1, 12, 7, 7, 9, 7, 7), dtype)), kSingle),
              ForwardWay::kChannelsLast);
  }
  EXPECT_EQ(way_of(of_dtype(problem_of(1, 1, 7, 7, 9, 7, 7), DType::kFloat64), kSingle), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(of_dtype(problem_of(1, 2, 7, 7, 9, 7, 7), DType::kFloat64), kSingle), ForwardWay::kSharedMemory);
}

void test_alignment() {
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 9, 7, 7), kSingle, false), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(channels_last(problem_of(1, 4, 7, 7, 9, 7, 7)), kSingle, false), ForwardWay::kChannelsLast);
}

void test_without_shared_memory() {
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 9, 7, 7), kSingle, true, false), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(channels_last(problem_of(1, 4, 7, 7, 9, 7, 7)), kSingle, true, false),
            ForwardWay::kChannelsLastByVectors);
  EXPECT_EQ(way_of(channels_last(problem_of(1, 4, 7, 7, 9, 7, 7)), kSingle, false, false), ForwardWay::kChannelsLast);
}

void test_what_fits() {
  EXPECT_EQ(way_of(problem_of(1, 4, 1, 13949, 400, 7, 7), kSingle), ForwardWay::kSharedMemory);  // 232440 bytes
  EXPECT_EQ(way_of(problem_of(1, 4, 1, 13950, 400, 7, 7), kSingle), ForwardWay::kContiguous);    // 232456 bytes
  const DeviceLimits huge{1 << 20, 1};
  EXPECT_EQ(way_of(problem_of(1, 4, 1, 32767, 800, 7, 7), huge), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(problem_of(1, 4, 1, 32768, 800, 7, 7), huge), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 1, 256, 256), kSingle), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 1, 256, 257), kSingle), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 1, 511, 1), kSingle), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, 1, INT64_C(1) << 40, 1), kSingle), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, UINT32_MAX, 1, 1), kSingle), ForwardWay::kSharedMemory);
  EXPECT_EQ(way_of(problem_of(1, 4, 7, 7, INT64_C(1) << 32, 1, 1), kSingle), ForwardWay::kContiguous);
}

void test_pyramids_and_empty_maps() {
  RoIPoolProblem pyramid = problem_of(1, 4, 7, 7, 9, 7, 7);
  pyramid.num_levels = 2;
  EXPECT_EQ(way_of(pyramid, kSingle), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(channels_last(pyramid), kSingle), ForwardWay::kChannelsLastByVectors);
  EXPECT_EQ(way_of(problem_of(0, 4, 7, 7, 9, 7, 7), kSingle), ForwardWay::kContiguous);
  EXPECT_EQ(way_of(problem_of(1, 4, 0, 7, 9, 7, 7), kSingle), ForwardWay::kContiguous);
}

}  // namespace

int main() {
  test_plans_of_whole_problems();
  test_a_bin_for_each_cell();
  test_a_block_for_every_two_multiprocessors();
  test_channels();
  test_alignment();
  test_without_shared_memory();
  test_what_fits();
  test_pyramids_and_empty_maps();
}
