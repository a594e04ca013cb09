// Arithmetic that every folder needs.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace roipool {

// Divides and rounds up.
constexpr ROIPOOL_HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace roipool
