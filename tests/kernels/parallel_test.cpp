// Tests how many threads work is shared out to. The numbers were worked out by hand.
#include "cpu/parallel.h"

#include <cstdint>

#include "expect.h"

using namespace roipool::cpu;

int main() {
  EXPECT_EQ(max_threads_for(0), 1);
  EXPECT_EQ(max_threads_for(199e3), 1);
  EXPECT_EQ(max_threads_for(200e3), 2);
  EXPECT_EQ(max_threads_for(1e300), 1000000);

  EXPECT_EQ(grain_of(8, 50e3), 8);      // all on one thread
  EXPECT_EQ(grain_of(8, 250e3), 4);     // two threads
  EXPECT_EQ(grain_of(1000, 1e6), 100);  // ten
  EXPECT_EQ(grain_of(3, 1e9), 1);
  EXPECT_EQ(grain_of(0, 0), 1);
}
