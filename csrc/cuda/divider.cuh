// Divides by numbers that stay the same, in fewer instructions than the compiler's own division takes.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace roipool::cuda {

// Divides 0 <= a < 2^52. The compiler's own division of 64-bit numbers is a function that costs a stack frame.
class Divider {
 public:
  explicit Divider(int64_t divisor) : divisor_(divisor), inverse_(1.0 / static_cast<double>(divisor)) {}

  __device__ int64_t divide(int64_t a) const {
    const auto nearly = static_cast<int64_t>(static_cast<double>(a) * inverse_);  // within 1 of the quotient
    const int64_t rest = a - nearly * divisor_;
    return nearly + (rest >= divisor_ ? 1 : 0) - (rest < 0 ? 1 : 0);
  }

 private:
  int64_t divisor_;
  double inverse_;
};

// Divides 0 <= a < 2^20 in fewer instructions still.
class SmallDivider {
 public:
  __device__ explicit SmallDivider(int32_t divisor) : inverse_(1.0f / static_cast<float>(divisor)) {}

  __device__ int32_t divide(int32_t a) const { return static_cast<int32_t>((static_cast<float>(a) + 0.5f) * inverse_); }

 private:
  float inverse_;
};

}  // namespace roipool::cuda
