// Makes tensors and numbers of the bytes of one input of the fuzzer.
#pragma once
#include <ATen/ATen.h>
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace fuzz {

constexpr at::ScalarType kFeatureDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};
constexpr at::ScalarType kRoiDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kInt, at::kLong};

struct Bytes {
  explicit Bytes(FuzzedDataProvider& data) : data(data), random(data.ConsumeIntegral<uint32_t>()) {}

  bool one_in(int n) { return data.ConsumeIntegralInRange<int>(1, n) == n; }
  int64_t in(int64_t least, int64_t most) { return data.ConsumeIntegralInRange<int64_t>(least, most); }

  template <typename T, size_t kSize>
  T pick(const T (&choices)[kSize]) {
    return choices[in(0, kSize - 1)];
  }

  FuzzedDataProvider& data;
  std::minstd_rand random;  // deals out contents
};

// Allocates just the memory that a tensor needs, so that AddressSanitizer sees each step beyond it.
inline at::Tensor uninitialised(Bytes& bytes, at::IntArrayRef sizes, at::ScalarType dtype, bool may_overlap = true) {
  const size_t rank = sizes.size();
  std::vector<int64_t> order(rank);
  std::iota(order.begin(), order.end(), 0);
  const auto layout = bytes.in(0, may_overlap ? 5 : 4);
  if (layout == 1 && rank == 4) {
    order = {0, 2, 3, 1};  // channels_last
  } else if (layout >= 2) {
    std::shuffle(order.begin(), order.end(), bytes.random);
  }
  std::vector<int64_t> strides(rank, 1);
  int64_t stride = 1;
  for (size_t i = rank; i-- > 0;) {
    strides[order[i]] = stride;
    stride *=
        std::max<int64_t>(1, sizes[order[i]]) + (layout == 3 ? bytes.in(0, 2) : 0);  // a slice of something larger
    if (layout == 4 && bytes.one_in(2)) {
      strides[order[i]] = 0;  // expanded
    } else if (layout == 5) {
      strides[order[i]] = bytes.in(0, 9);  // overlapping
    }
  }
  int64_t last = 0;
  bool empty = false;
  for (size_t i = 0; i < rank; ++i) {
    last += (sizes[i] - 1) * strides[i];
    empty = empty || sizes[i] == 0;
  }
  const int64_t offset = layout >= 2 ? bytes.in(0, 3) : 0;
  const int64_t size = empty ? 0 : last + 1;
  const int64_t item = c10::elementSize(dtype);
  char* memory = static_cast<char*>(std::malloc((offset + size) * item));
  return at::from_blob(
      memory + offset * item, sizes, strides, [memory](void*) { std::free(memory); }, at::TensorOptions(dtype),
      c10::nullopt);
}

inline void write(char* element, at::ScalarType dtype, double number) {
  const auto write_as = [&](auto value) { std::memcpy(element, &value, sizeof value); };
  switch (dtype) {
    case at::kHalf:
      return write_as(at::Half(static_cast<float>(number)));
    case at::kBFloat16:
      return write_as(at::BFloat16(static_cast<float>(number)));
    case at::kFloat:
      return write_as(static_cast<float>(number));
    case at::kDouble:
      return write_as(number);
    case at::kInt:
      return write_as(static_cast<int32_t>(number == number ? std::clamp(number, -2e9, 2e9) : 0));
    default:
      return write_as(static_cast<int64_t>(number == number ? std::clamp(number, -4e18, 4e18) : 0));
  }
}

// Visits each place in the memory that a tensor spans.
template <typename Visit>
void for_each_element(const at::Tensor& tensor, const Visit& visit) {
  int64_t last = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    last += (tensor.size(i) - 1) * tensor.stride(i);
  }
  for (int64_t i = 0; tensor.numel() > 0 && i <= last; ++i) {
    visit(static_cast<char*>(tensor.data_ptr()) + i * tensor.element_size());
  }
}

// Fills a tensor with any bits, or with a few numbers, among which there are ties, infinities and NaN.
inline void fill(Bytes& bytes, const at::Tensor& tensor) {
  constexpr double kNumbers[] = {0.0, -0.0, 1, -1, 2, INFINITY, -INFINITY, NAN};
  const size_t item = tensor.element_size();
  if (bytes.one_in(3)) {
    const size_t first = bytes.in(0, 4);
    const size_t count = bytes.in(1, 4);
    for_each_element(
        tensor, [&](char* element) { write(element, tensor.scalar_type(), kNumbers[first + bytes.random() % count]); });
    return;
  }
  uint64_t palette[8];
  const size_t colors = bytes.in(1, 8);
  for (size_t i = 0; i < colors; ++i) {
    palette[i] = bytes.data.ConsumeIntegral<uint64_t>();
    if (item == 8 && bytes.one_in(2)) {
      palette[i] <<= 48;  // a number whose low bits are all 0
    } else if (item == 4 && bytes.one_in(2)) {
      palette[i] <<= 16;
    }
  }
  for_each_element(tensor, [&](char* element) {
    const uint64_t color = palette[bytes.random() % colors];
    std::memcpy(element, &color, item);
  });
}

inline at::Tensor features(Bytes& bytes, at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor tensor = uninitialised(bytes, sizes, dtype);
  fill(bytes, tensor);
  return tensor;
}

// Makes regions near the map, or of any numbers.
inline at::Tensor rois(Bytes& bytes, int64_t num_rois, int64_t num_images, double image_size) {
  const at::ScalarType dtype = bytes.pick(kRoiDtypes);
  at::Tensor tensor = uninitialised(bytes, {num_rois, 5}, dtype);
  if (bytes.one_in(4)) {
    fill(bytes, tensor);
    return tensor;
  }
  const bool whole = bytes.one_in(2);  // bins begin and end at whole numbers
  const double farthest = image_size < 1e30 ? 1.4 * image_size + 2 : 1e30;
  int64_t i = 0;
  for_each_element(tensor, [&](char* element) {
    const double fraction = static_cast<double>(bytes.random()) / std::minstd_rand::max();
    const double number = i++ % 5 == 0 ? std::floor(fraction * (num_images + 0.4)) : (fraction - 0.2) * farthest;
    write(element, dtype, whole ? std::round(number) : number);
  });
  return tensor;
}

inline double scale(Bytes& bytes) {
  if (bytes.one_in(4)) {
    const uint64_t bits = bytes.data.ConsumeIntegral<uint64_t>();
    double any;
    std::memcpy(&any, &bits, sizeof any);
    return any;
  }
  return std::ldexp(static_cast<double>(bytes.in(1, 40)) / 16, static_cast<int>(bytes.in(-4, 1)));
}

inline bool is_scale(double number) { return std::isfinite(number) && number > 0; }

}  // namespace fuzz
