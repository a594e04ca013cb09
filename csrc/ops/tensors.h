// Handles tensors for the operators: dtypes, memory formats, allocation, and `out=`.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/MemoryFormat.h>
#include <torch/headeronly/core/ScalarType.h>

#include <array>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "huge_pages.h"
#include "ops/checks.h"

namespace roipool {

using torch::headeronly::MemoryFormat;

using Shape = std::array<int64_t, 4>;

// Returns the sizes of a 4-D tensor.
inline Shape shape_of(const Tensor& tensor) { return {tensor.size(0), tensor.size(1), tensor.size(2), tensor.size(3)}; }

// Returns what the kernels call a dtype that check_features() lets pass.
inline DType dtype_of_features(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return DType::kFloat16;
    case ScalarType::BFloat16:
      return DType::kBFloat16;
    case ScalarType::Float:
      return DType::kFloat32;
    default:
      return DType::kFloat64;
  }
}

// Returns what Tensor.suggest_memory_format() of ATen does, which the stable ABI does not have: channels_last where the
// strides descend in the order N, H, W, C. A tensor that qualifies for both formats (C = 1, say) counts as contiguous.
// Unlike in ATen, a batch of no images has the format that its strides say: the compiler, to which N may be a symbol,
// decides by them as well.
inline MemoryFormat memory_format_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  int64_t least = 0;
  if (strides[1] == 0) {
    return MemoryFormat::Contiguous;
  }
  for (const int dimension : {1, 3, 2, 0}) {
    const bool batch_of_one_channel = dimension == 0 && least == strides[1];
    const bool is_empty = dimension != 0 && sizes[dimension] == 0;
    if (is_empty || strides[dimension] < least || batch_of_one_channel) {
      return MemoryFormat::Contiguous;
    }
    least = strides[dimension] * (sizes[dimension] > 1 ? sizes[dimension] : 1);
  }
  return MemoryFormat::ChannelsLast;
}

// Returns function(), which allocates a tensor. Where it fails, the error says so: before torch 2.13, torch's own says
// only that a call has failed.
template <typename Sizes, typename Function>
Tensor allocate(const Sizes& sizes, ScalarType dtype, const torch::stable::Device& device, const Function& function) {
  try {
    return function();
  } catch (const std::exception& error) {
    throw std::runtime_error("cannot allocate a tensor of shape " + name_of_shape(sizes) + " and dtype " +
                             name_of(dtype) + " on " + name_of(device) + ": out of memory (" + error.what() + ")");
  }
}

// Returns a tensor to write a result to, in huge pages where it is large.
inline Tensor empty(const Shape& sizes, ScalarType dtype, const torch::stable::Device& device, MemoryFormat format) {
  Tensor tensor = allocate(sizes, dtype, device, [&] {
    return torch::stable::empty(sizes, dtype, torch::headeronly::Layout::Strided, device, /*pin_memory=*/false, format);
  });
  if (device.is_cpu()) {
    advise_huge_pages(tensor.mutable_data_ptr(), tensor.numel() * static_cast<int64_t>(tensor.element_size()));
  }
  return tensor;
}

inline Tensor make_contiguous(const Tensor& tensor, MemoryFormat format = MemoryFormat::Contiguous) {
  return allocate(tensor.sizes(), tensor.scalar_type(), tensor.device(),
                  [&] { return torch::stable::contiguous(tensor, format); });
}

// Returns whether a tensor lies in memory as empty() makes it.
inline bool is_dense(const Tensor& tensor, MemoryFormat format) {
  const auto sizes = tensor.sizes();
  const auto strides = tensor.strides();
  const std::array<int, 4> order =
      format == MemoryFormat::ChannelsLast ? std::array<int, 4>{1, 3, 2, 0} : std::array<int, 4>{3, 2, 1, 0};
  int64_t stride = 1;
  for (const int dimension : order) {
    if (sizes[dimension] != 1 && strides[dimension] != stride) {
      return false;
    }
    stride *= sizes[dimension];
  }
  return true;
}

// Returns a tensor as empty() makes it: itself if it can be. torch::stable::contiguous would ask the dispatcher even
// where there is nothing to do.
inline Tensor make_dense(const Tensor& tensor, MemoryFormat format) {
  return is_dense(tensor, format) ? tensor : make_contiguous(tensor, format);
}

inline std::vector<Tensor> make_dense(const std::vector<Tensor>& tensors, MemoryFormat format) {
  std::vector<Tensor> result;
  for (const Tensor& tensor : tensors) {
    result.push_back(make_dense(tensor, format));
  }
  return result;
}

// Returns whether two tensors may have memory in common.
inline bool may_overlap(const Tensor& a, const Tensor& b) {
  const auto end_of = [](const Tensor& tensor) {
    return static_cast<const char*>(tensor.const_data_ptr()) + extent_of(tensor) * tensor.element_size();
  };
  return a.numel() > 0 && b.numel() > 0 && static_cast<const char*>(a.const_data_ptr()) < end_of(b) &&
         static_cast<const char*>(b.const_data_ptr()) < end_of(a);
}

// Calls torch.clone(tensor, out=out), which resizes `out` as all of PyTorch's functions do, with their warning where it
// held anything.
inline void resize_and_copy(const Tensor& tensor, const Tensor& out) {
  const std::string shape =
      name_of_shape(out.sizes());  // read first, because torch changes it before it asks for memory
  std::array<StableIValue, 3> stack{torch::stable::detail::from(tensor),
                                    torch::stable::detail::from(std::optional<MemoryFormat>()),
                                    torch::stable::detail::from(out)};
  if (torch_call_dispatcher("aten::clone", "out", stack.data(), TORCH_ABI_VERSION) != TORCH_SUCCESS) {
    throw std::runtime_error("out of shape " + shape + " cannot be resized to " + name_of_shape(tensor.sizes()) +
                             ": it is another library's memory, or there is no more");
  }
  torch::stable::detail::to<Tensor>(stack[0]);  // takes over the returned tensor, to release it
}

// Returns rois as the geometry reads them: contiguous, and float32 unless float64.
inline Tensor widen_rois(const Tensor& rois) {
  const bool exact = rois.scalar_type() == ScalarType::Float || rois.scalar_type() == ScalarType::Double;
  const bool is_contiguous = rois.stride(0) == 5 && rois.stride(1) == 1;
  if (exact) {
    return is_contiguous ? rois : make_contiguous(rois);
  }
  return allocate(rois.sizes(), ScalarType::Float, rois.device(),
                  [&] { return torch::stable::contiguous(torch::stable::to(rois, ScalarType::Float)); });
}

}  // namespace roipool
