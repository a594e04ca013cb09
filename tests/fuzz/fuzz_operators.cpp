// Fuzzes the CPU operators through PyTorch's dispatcher, with libFuzzer: see run.py.
//
// An input of the fuzzer says which operator is called, with tensors of which shapes, strides, dtypes and contents. The
// contents are any bits: a palette of a few numbers from the input, dealt out by a generator seeded from it. Results
// are compared with those of oracle.h, bit for bit; arguments that are wrong must be refused by an error that names
// them.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <fuzzer/FuzzedDataProvider.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iomanip>
#include <iostream>
#include <numeric>
#include <random>
#include <string>

#include "oracle.h"

namespace {

constexpr at::ScalarType kFeatureDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16};
constexpr at::ScalarType kRoiDtypes[] = {at::kFloat, at::kDouble, at::kHalf, at::kBFloat16, at::kInt, at::kLong};

struct Problem;
const Problem* current = nullptr;  // what a failure is about
void print(const Problem& problem);

#define REQUIRE(condition, ...)          \
  do {                                   \
    if (!(condition)) {                  \
      std::fprintf(stderr, "FAILED: ");  \
      std::fprintf(stderr, __VA_ARGS__); \
      std::fprintf(stderr, "\n");        \
      if (current != nullptr) {          \
        print(*current);                 \
      }                                  \
      std::abort();                      \
    }                                    \
  } while (false)

// ---- Arguments.

struct Bytes {
  explicit Bytes(FuzzedDataProvider& data) : data(data), random(data.ConsumeIntegral<uint32_t>()) {}

  bool one_in(int n) { return data.ConsumeIntegralInRange<int>(1, n) == n; }
  int64_t in(int64_t least, int64_t most) { return data.ConsumeIntegralInRange<int64_t>(least, most); }

  template <typename T, size_t kSize>
  T pick(const T (&choices)[kSize]) {
    return choices[in(0, kSize - 1)];
  }

  FuzzedDataProvider& data;
  std::minstd_rand random;  // what is dealt out
};

// Memory of just the size that a tensor needs, so that AddressSanitizer sees each step beyond it.
at::Tensor uninitialised(Bytes& bytes, at::IntArrayRef sizes, at::ScalarType dtype, bool may_overlap = true) {
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

void write(char* element, at::ScalarType dtype, double number) {
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

// Each place in the memory that a tensor spans.
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

// Any bits; or a few numbers, among which there are ties, and all that is special.
void fill(Bytes& bytes, const at::Tensor& tensor) {
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
      palette[i] <<= 48;  // the bits of a short number
    } else if (item == 4 && bytes.one_in(2)) {
      palette[i] <<= 16;
    }
  }
  for_each_element(tensor, [&](char* element) {
    const uint64_t color = palette[bytes.random() % colors];
    std::memcpy(element, &color, item);
  });
}

at::Tensor features(Bytes& bytes, at::IntArrayRef sizes, at::ScalarType dtype) {
  at::Tensor tensor = uninitialised(bytes, sizes, dtype);
  fill(bytes, tensor);
  return tensor;
}

// Regions near the map, and any others.
at::Tensor rois(Bytes& bytes, int64_t num_rois, int64_t num_images, double extent) {
  const at::ScalarType dtype = bytes.pick(kRoiDtypes);
  at::Tensor tensor = uninitialised(bytes, {num_rois, 5}, dtype);
  if (bytes.one_in(4)) {
    fill(bytes, tensor);
    return tensor;
  }
  const bool whole = bytes.one_in(2);  // whole numbers, which bins begin and end at
  const double reach = extent < 1e30 ? 1.4 * extent + 2 : 1e30;
  int64_t i = 0;
  for_each_element(tensor, [&](char* element) {
    const double fraction = static_cast<double>(bytes.random()) / std::minstd_rand::max();
    const double number = i++ % 5 == 0 ? std::floor(fraction * (num_images + 0.4)) : (fraction - 0.2) * reach;
    write(element, dtype, whole ? std::round(number) : number);
  });
  return tensor;
}

double scale(Bytes& bytes) {
  if (bytes.one_in(4)) {
    const uint64_t bits = bytes.data.ConsumeIntegral<uint64_t>();
    double any;
    std::memcpy(&any, &bits, sizeof any);
    return any;
  }
  return std::ldexp(static_cast<double>(bytes.in(1, 40)) / 16, static_cast<int>(bytes.in(-4, 1)));
}

bool is_scale(double number) { return std::isfinite(number) && number > 0; }

// ---- Calls.

using Stack = std::vector<c10::IValue>;

// The results, or the message of the error that was raised instead.
struct Outcome {
  Stack results;
  std::string error;

  at::Tensor tensor(size_t i = 0) const { return results.at(i).toTensor(); }
};

Outcome call(const char* name, Stack stack, const char* overload = "") {
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

Outcome succeed(const char* name, Stack stack, const char* overload = "") {
  Outcome outcome = call(name, std::move(stack), overload);
  REQUIRE(outcome.error.empty(), "%s: %s", name, outcome.error.c_str());
  return outcome;
}

// `names`: one of them must be in the message.
void expect_refusal(const char* name, Stack stack, const std::vector<std::string>& names, const char* overload = "") {
  const Outcome outcome = call(name, std::move(stack), overload);
  REQUIRE(!outcome.error.empty(), "%s took a wrong %s", name, names[0].c_str());
  for (const std::string& argument : names) {
    if (outcome.error.find(argument) != std::string::npos) {
      return;
    }
  }
  REQUIRE(false, "%s, given a wrong %s, says: %s", name, names[0].c_str(), outcome.error.c_str());
}

// ---- Comparison.

std::vector<double> doubles(const at::Tensor& tensor) {
  const at::Tensor wide = tensor.to(at::kDouble).contiguous();
  const auto* data = wide.const_data_ptr<double>();
  return {data, data + wide.numel()};
}

// As they lie in memory of row-major order.
std::vector<uint64_t> bits(const at::Tensor& tensor) {
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

bool is_nan(uint64_t number, at::ScalarType dtype) {
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

void compare(const char* what, const at::Tensor& actual, const std::vector<uint64_t>& expected, bool any_nan = false) {
  const std::vector<uint64_t> values = bits(actual);
  REQUIRE(values.size() == expected.size(), "%s has %zu elements, not %zu", what, values.size(), expected.size());
  for (size_t i = 0; i < values.size(); ++i) {
    const bool both_nan =
        any_nan && is_nan(values[i], actual.scalar_type()) && is_nan(expected[i], actual.scalar_type());
    REQUIRE(values[i] == expected[i] || both_nan, "%s[%zu] is %llx, not %llx", what, i,
            static_cast<unsigned long long>(values[i]), static_cast<unsigned long long>(expected[i]));
  }
}

// ---- One problem.

struct Problem {
  bool pyramid;
  at::ScalarType dtype;
  std::vector<at::Tensor> inputs;
  std::vector<double> spatial_scales;
  at::Tensor rois;
  oracle::Problem plain;
  std::vector<std::vector<double>> values;  // of the inputs

  bool is_valid() const {
    bool valid = is_scale(plain.canonical_scale);
    for (const double spatial_scale : spatial_scales) {
      valid = valid && is_scale(spatial_scale);
    }
    return valid;
  }

  at::IntArrayRef output_sizes() const { return sizes_; }

  // The arguments of an operator after its tensors.
  Stack with_pyramid(Stack stack) const {
    if (pyramid) {
      stack.insert(stack.end(), {spatial_scales, plain.canonical_scale, plain.canonical_level});
    }
    return stack;
  }

  c10::IValue input() const { return pyramid ? c10::IValue(inputs) : c10::IValue(inputs[0]); }

  Stack forward_arguments() const {
    Stack stack{input(), rois, plain.pooled_height, plain.pooled_width};
    if (!pyramid) {
      stack.emplace_back(spatial_scales[0]);
    }
    return with_pyramid(stack);
  }

  Stack backward_arguments(const at::Tensor& grad_output, const at::Tensor& argmax) const {
    Stack stack{grad_output, rois, argmax, plain.num_images};
    if (!pyramid) {
      stack.insert(stack.end(), {plain.levels[0].height, plain.levels[0].width});
      return stack;
    }
    std::vector<int64_t> heights;
    std::vector<int64_t> widths;
    for (const oracle::Level& level : plain.levels) {
      heights.push_back(level.height);
      widths.push_back(level.width);
    }
    stack.insert(stack.end(), {heights, widths});
    return with_pyramid(stack);
  }

  Stack gather_arguments(const at::Tensor& argmax) const { return with_pyramid({input(), rois, argmax}); }

  std::vector<int64_t> sizes_;
};

void print(const Problem& problem) {
  const oracle::Problem& plain = problem.plain;
  std::cerr << "output_size (" << plain.pooled_height << ", " << plain.pooled_width << "), canonical_scale "
            << plain.canonical_scale << ", canonical_level " << plain.canonical_level << "\n";
  for (size_t i = 0; i < problem.inputs.size(); ++i) {
    const at::Tensor& input = problem.inputs[i];
    std::cerr << "input " << input.scalar_type() << " " << input.sizes() << ", strides " << input.strides()
              << ", spatial_scale " << problem.spatial_scales[i] << "\n";
  }
  std::cerr << "rois " << problem.rois.strides() << std::setprecision(17) << "\n";
  for (int64_t k = 0; k < plain.num_rois; ++k) {
    for (const double number : doubles(problem.rois[k])) {
      std::cerr << " " << number;
    }
    std::cerr << "\n";
  }
}

// Of a square, of which `count` have as many elements together; but 2 at least, and `most` at most.
int64_t side(int64_t elements, int64_t count, int64_t most) {
  const double root = std::sqrt(static_cast<double>(elements) / static_cast<double>(std::max<int64_t>(1, count)));
  return std::clamp(static_cast<int64_t>(root), int64_t{2}, most);
}

Problem problem(Bytes& bytes) {
  Problem problem;
  problem.pyramid = bytes.one_in(3);
  problem.dtype = bytes.pick(kFeatureDtypes);
  oracle::Problem& plain = problem.plain;
  plain.num_images = bytes.in(0, 3);
  plain.channels = bytes.one_in(3) ? bytes.in(15, 70) : bytes.in(0, 14);
  plain.num_rois = bytes.one_in(16) ? bytes.in(0, 60) : bytes.in(0, 5);
  plain.canonical_scale = problem.pyramid ? scale(bytes) * 32 : 1;
  plain.canonical_level = problem.pyramid ? bytes.in(-3, 6) : 0;
  const int64_t num_levels = problem.pyramid ? bytes.in(1, 8) : 1;
  // Small enough that there are thousands of executions in a second; a few of them are larger.
  const int64_t elements = bytes.one_in(16) ? 20000 : 2000;
  const int64_t most_bins = side(elements, plain.num_rois * plain.channels, 7);
  const int64_t most_cells = side(elements, plain.num_images * plain.channels * num_levels, elements > 2000 ? 40 : 14);
  plain.pooled_height = bytes.in(1, most_bins);
  plain.pooled_width = bytes.in(1, most_bins);
  double extent = 1;
  for (int64_t i = 0; i < num_levels; ++i) {
    const int64_t height = bytes.in(0, most_cells);
    const int64_t width = bytes.in(0, most_cells);
    problem.spatial_scales.push_back(scale(bytes));
    problem.inputs.push_back(features(bytes, {plain.num_images, plain.channels, height, width}, problem.dtype));
    extent = std::max(extent, static_cast<double>(std::max(height, width)) / problem.spatial_scales.back());
  }
  problem.rois = rois(bytes, plain.num_rois, plain.num_images, extent);
  problem.sizes_ = {plain.num_rois, plain.channels, plain.pooled_height, plain.pooled_width};
  for (int64_t i = 0; i < num_levels; ++i) {
    const at::Tensor& input = problem.inputs[i];
    problem.values.push_back(doubles(input));
    plain.levels.push_back({problem.values.back().data(), input.size(2), input.size(3), problem.spatial_scales[i]});
  }
  return problem;
}

// Calls function(rois [K, 5]) with numbers of the type that the geometry is computed in.
template <typename Function>
void with_rois(const Problem& problem, const Function& function) {
  if (problem.rois.scalar_type() == at::kDouble) {
    function(problem.rois.contiguous().const_data_ptr<double>());
  } else {
    const at::Tensor rois = problem.rois.to(at::kFloat).contiguous();
    function(rois.const_data_ptr<float>());
  }
}

// The bits of the cells of the inputs that argmax points to, 0 where it points to none.
std::vector<uint64_t> gathered(const Problem& problem, const std::vector<int32_t>& argmax) {
  std::vector<std::vector<uint64_t>> values;
  for (const at::Tensor& input : problem.inputs) {
    values.push_back(bits(input));
  }
  std::vector<uint64_t> result(argmax.size(), 0);
  with_rois(problem, [&](const auto* rois) {
    oracle::for_each_cell(problem.plain, rois, argmax.data(),
                          [&](int64_t level, int64_t cell, int64_t element) { result[element] = values[level][cell]; });
  });
  return result;
}

std::vector<int32_t> ints(const at::Tensor& tensor) {
  const at::Tensor dense = tensor.contiguous();
  const auto* data = dense.const_data_ptr<int32_t>();
  return {data, data + dense.numel()};
}

const char* name_of(const Problem& problem, const char* single, const char* pyramid) {
  return problem.pyramid ? pyramid : single;
}

void check_forward(Bytes& bytes, const Problem& problem) {
  std::vector<int32_t> expected;
  with_rois(problem, [&](const auto* rois) { expected = oracle::argmax(problem.plain, rois); });
  const std::vector<uint64_t> expected_output = gathered(problem, expected);

  const Outcome both =
      succeed(name_of(problem, "roi_pool_with_argmax", "multiscale_roi_pool_with_argmax"), problem.forward_arguments());
  REQUIRE(both.tensor().sizes() == problem.output_sizes() && both.tensor().scalar_type() == problem.dtype,
          "output is of another shape or dtype");
  compare("output", both.tensor(), expected_output);
  REQUIRE(ints(both.tensor(1)) == expected, "argmax differs");
  const Outcome pooled = succeed(name_of(problem, "roi_pool", "multiscale_roi_pool"), problem.forward_arguments());
  compare("output without argmax", pooled.tensor(), expected_output);

  if (!problem.pyramid && bytes.one_in(4)) {
    // A tensor of the right shape in any memory, or of another shape, which is resized.
    const bool fits = bytes.one_in(2);
    const at::Tensor out = fits ? uninitialised(bytes, problem.output_sizes(), problem.dtype, /*may_overlap=*/false)
                                : at::empty({0}, at::TensorOptions(problem.dtype));
    Stack stack = problem.forward_arguments();
    stack.emplace_back(out);
    const Outcome written = call("roi_pool", stack, "out");
    if (written.error.empty()) {
      compare("out", out, expected_output);
      REQUIRE(written.tensor().is_same(out), "out is not what is returned");
    } else {
      REQUIRE(fits && written.error.find("memory") != std::string::npos, "out: %s", written.error.c_str());
    }
  }
}

// An argmax of any numbers, most of which are cells.
at::Tensor any_argmax(Bytes& bytes, const Problem& problem) {
  at::Tensor argmax = uninitialised(bytes, problem.output_sizes(), at::kInt);
  if (bytes.one_in(3)) {
    fill(bytes, argmax);
    return argmax;
  }
  int64_t most = 1;
  for (const oracle::Level& level : problem.plain.levels) {
    most = std::max(most, level.height * level.width);
  }
  for_each_element(argmax, [&](char* element) {
    const int32_t cell = static_cast<int32_t>(bytes.random() % (most + 4)) - 2;
    std::memcpy(element, &cell, sizeof cell);
  });
  return argmax;
}

void check_gather(Bytes& bytes, const Problem& problem) {
  const at::Tensor argmax = any_argmax(bytes, problem);
  const Outcome outcome =
      succeed(name_of(problem, "roi_pool_gather", "multiscale_roi_pool_gather"), problem.gather_arguments(argmax));
  compare("gathered", outcome.tensor(), gathered(problem, ints(argmax)));
}

void check_backward(Bytes& bytes, const Problem& problem) {
  const at::Tensor argmax = any_argmax(bytes, problem);
  const at::Tensor grad_output = features(bytes, problem.output_sizes(), problem.dtype);
  const Outcome outcome = succeed(name_of(problem, "roi_pool_backward", "multiscale_roi_pool_backward"),
                                  problem.backward_arguments(grad_output, argmax));
  const auto results = problem.pyramid ? outcome.results.at(0).toTensorVector() : std::vector{outcome.tensor()};
  REQUIRE(results.size() == problem.plain.levels.size(), "there are %zu gradients", results.size());

  const std::vector<double> grads = doubles(grad_output);
  const std::vector<int32_t> cells = ints(argmax);
  with_rois(problem, [&](const auto* rois) {
    const auto check = [&](const auto& sums) {
      for (size_t i = 0; i < results.size(); ++i) {
        REQUIRE(results[i].sizes() == problem.inputs[i].sizes(), "a gradient is of another shape");
        const at::Tensor expected = at::tensor(sums[i]).to(problem.dtype);
        compare("grad_input", results[i], bits(expected), /*any_nan=*/true);
      }
    };
    if (problem.dtype == at::kDouble) {
      check(oracle::backward<std::decay_t<decltype(*rois)>, double>(problem.plain, rois, grads.data(), cells.data()));
    } else {
      check(oracle::backward<std::decay_t<decltype(*rois)>, float>(problem.plain, rois, grads.data(), cells.data()));
    }
  });
}

// ---- Wrong arguments: each operator with one of them replaced.

// A tensor that none of the operators takes, in the place of one of `like`'s shape and dtype.
at::Tensor wrong_tensor(Bytes& bytes, const at::Tensor& like) {
  switch (bytes.in(0, 8)) {
    case 0:
      return like.unsqueeze(0);
    case 1:
      return at::zeros({}, like.options());
    case 2:
      return at::zeros(like.sizes(), at::kBool);
    case 3:
      return at::zeros(like.sizes(), at::kComplexFloat);
    case 4:
      return at::zeros(like.sizes(), at::kChar);
    case 5:
      return at::zeros(like.sizes(), at::kShort);
    case 6:
      return at::empty(like.sizes(), like.options().device(at::kMeta));
    case 7:
      return at::zeros({like.size(0) + 1, like.size(1) + 1}, like.options());
    default:
      return at::Tensor();
  }
}

void check_refusals(Bytes& bytes, const Problem& problem) {
  const at::Tensor argmax = any_argmax(bytes, problem);
  const at::Tensor grad_output = features(bytes, problem.output_sizes(), problem.dtype);
  // Of a tensor that is undefined, or on a device without kernels, the dispatcher has its own to say.
  const std::vector<std::string> dispatcher = {"Meta", "backend", "undefined", "Undefined"};
  const auto refused = [&](const char* name, Stack stack, size_t position, const char* argument) {
    const at::Tensor wrong = wrong_tensor(bytes, stack[position].toTensor());
    const bool on_cpu = wrong.defined() && wrong.is_cpu();
    stack[position] = wrong;
    std::vector<std::string> names = {argument};
    if (!on_cpu) {
      names.insert(names.end(), dispatcher.begin(), dispatcher.end());
      names.insert(names.end(), {"device", "input", "rois", "argmax"});
    }
    expect_refusal(name, stack, names);
  };
  const char* forward = name_of(problem, "roi_pool", "multiscale_roi_pool");
  const char* backward = name_of(problem, "roi_pool_backward", "multiscale_roi_pool_backward");
  const char* gather = name_of(problem, "roi_pool_gather", "multiscale_roi_pool_gather");
  Stack stack = problem.forward_arguments();
  constexpr int64_t kBadSizes[] = {0, -1, INT64_MIN, int64_t{1} << 31, INT64_MAX};
  constexpr int64_t kBadCounts[] = {-1, INT64_MIN, int64_t{1} << 62, INT64_MAX};
  switch (bytes.in(0, 8)) {
    case 0:
      stack[bytes.in(2, 3)] = bytes.pick(kBadSizes);
      return expect_refusal(forward, stack, {"output_size"});
    case 1:
      return refused(forward, stack, 1, "rois");
    case 2:
      return refused(backward, problem.backward_arguments(grad_output, argmax), 0, "grad_output");
    case 3:
      return refused(backward, problem.backward_arguments(grad_output, argmax), 2, "argmax");
    case 4:
      return refused(gather, problem.gather_arguments(argmax), 2, "argmax");
    case 5:
      if (!problem.pyramid) {
        return refused(gather, problem.gather_arguments(argmax), 0, "input");
      }
      return;
    case 6: {
      stack = problem.backward_arguments(grad_output, argmax);
      if (problem.pyramid) {
        std::vector<int64_t> heights(problem.plain.levels.size(), 3);
        std::vector<int64_t> widths = heights;
        heights[bytes.in(0, heights.size() - 1)] = bytes.pick(kBadCounts);
        stack[4] = bytes.one_in(2) ? heights : widths;
        stack[5] = stack[4].toIntVector() == heights ? widths : heights;
      } else {
        stack[bytes.in(4, 5)] = -bytes.in(1, 99);
      }
      return expect_refusal(backward, stack, {"negative", "H*W"});
    }
    case 7:
      if (problem.pyramid) {
        stack[0] = std::vector<at::Tensor>(bytes.one_in(2) ? 0 : 9, problem.inputs[0]);
        return expect_refusal(forward, stack, {"inputs", "expected", "fallback", "Tensor"});
      }
      stack[0] = wrong_tensor(bytes, problem.inputs[0]);
      return expect_refusal(forward, stack, {"input", "Meta", "backend", "undefined", "device", "rois"});
    default:  // sizes that overflow: refused, or nothing at all where there is nothing to allocate
      stack = problem.backward_arguments(grad_output, argmax);
      stack[3] = bytes.pick(kBadCounts);
      call(backward, stack);
      stack = problem.forward_arguments();
      stack[2] = stack[3] = int64_t{INT32_MAX};
      call(forward, stack);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const c10::InferenceMode guard;  // or each tensor would be set up for autograd
  FuzzedDataProvider provider(data, size);
  Bytes bytes(provider);
  const int64_t action = bytes.in(0, 15);
  const Problem one = problem(bytes);
  current = &one;
  const char* forward = name_of(one, "roi_pool", "multiscale_roi_pool");
  const bool scale_matters = one.pyramid || action == 0 || action >= 9;
  if (scale_matters && !one.is_valid()) {
    expect_refusal(forward, one.forward_arguments(), {"scale"});
    return 0;
  }
  if (action == 0) {
    check_refusals(bytes, one);
  } else if (action <= 5) {
    check_backward(bytes, one);
  } else if (action <= 8) {
    check_gather(bytes, one);
  } else {
    check_forward(bytes, one);
  }
  return 0;
}
