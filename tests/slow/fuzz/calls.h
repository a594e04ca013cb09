// Calls operators through PyTorch's dispatcher, and compares what they return.
#pragma once
#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace fuzz {

struct Problem;
inline const Problem* current = nullptr;  // the problem that a failure is about
void print(const Problem& problem);

#define REQUIRE(condition, ...)          \
  do {                                   \
    if (!(condition)) {                  \
      std::fprintf(stderr, "FAILED: ");  \
      std::fprintf(stderr, __VA_ARGS__); \
      std::fprintf(stderr, "\n");        \
      if (::fuzz::current != nullptr) {  \
        ::fuzz::print(*::fuzz::current); \
      }                                  \
      std::abort();                      \
    }                                    \
  } while (false)

using Stack = std::vector<c10::IValue>;

// Holds the results, or the message of the error that was raised instead.
struct Outcome {
  Stack results;
  std::string error;

  at::Tensor tensor(size_t i = 0) const { return results.at(i).toTensor(); }
};

inline Outcome call(const char* name, Stack stack, const char* overload = "") {
  try {
    const auto op = c10::Dispatcher::singleton().findSchemaOrThrow((std::string("roipool::") + name).c_str(), overload);
    op.callBoxed(&stack);
    return {std::move(stack), ""};
  } catch (const c10::Error& error) {
    return {{}, error.what_without_backtrace()};
  } catch (const std::exception& error) {
    return {{}, error.what()};
  }
}

inline Outcome succeed(const char* name, Stack stack, const char* overload = "") {
  Outcome outcome = call(name, std::move(stack), overload);
  REQUIRE(outcome.error.empty(), "%s: %s", name, outcome.error.c_str());
  return outcome;
}

// Fails unless the call raises an error whose message has one of the names.
inline void expect_refusal(const char* name, Stack stack, const std::vector<std::string>& names,
                           const char* overload = "") {
  const Outcome outcome = call(name, std::move(stack), overload);
  REQUIRE(!outcome.error.empty(), "%s took a wrong %s", name, names[0].c_str());
  for (const std::string& argument : names) {
    if (outcome.error.find(argument) != std::string::npos) {
      return;
    }
  }
  REQUIRE(false, "%s, given a wrong %s, says: %s", name, names[0].c_str(), outcome.error.c_str());
}

inline std::vector<double> doubles(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  const auto* data = wide.const_data_ptr<double>();
  return {data, data + wide.numel()};
}

// Returns the bits of each element, in row-major order.
inline std::vector<uint64_t> bits(const at::Tensor& tensor) {
  const at::ScalarType integers[] = {at::kByte, at::kShort, at::kByte, at::kInt,
                                     at::kByte, at::kByte,  at::kByte, at::kLong};
  const size_t item = tensor.element_size();
  const at::Tensor whole = tensor.contiguous().view(integers[item - 1]).contiguous();
  std::vector<uint64_t> result(whole.numel(), 0);
  for (size_t i = 0; i < result.size(); ++i) {
    std::memcpy(&result[i], static_cast<const char*>(whole.const_data_ptr()) + i * item, item);
  }
  return result;
}

inline bool is_nan(uint64_t number, at::ScalarType dtype) {
  switch (dtype) {
    case at::kHalf:
      return (number & 0x7fff) > 0x7c00;
    case at::kBFloat16:
      return (number & 0x7fff) > 0x7f80;
    case at::kFloat:
      return (number & 0x7fffffff) > 0x7f800000;
    default:
      return (number & 0x7fffffffffffffff) > 0x7ff0000000000000;
  }
}

inline void compare(const char* what, const at::Tensor& actual, const std::vector<uint64_t>& expected,
                    bool any_nan = false) {
  const std::vector<uint64_t> values = bits(actual);
  REQUIRE(values.size() == expected.size(), "%s has %zu elements, not %zu", what, values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const bool both_nan =
        any_nan && is_nan(values[i], actual.scalar_type()) && is_nan(expected[i], actual.scalar_type());
    REQUIRE(values[i] == expected[i] || both_nan, "%s[%zu] is %llx, not %llx", what, i,
            static_cast<unsigned long long>(values[i]), static_cast<unsigned long long>(expected[i]));
  }
}

}  // namespace fuzz
