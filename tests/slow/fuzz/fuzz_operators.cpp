// Fuzzes the CPU operators through PyTorch's dispatcher, with libFuzzer: see run.py.
//
// An input of the fuzzer says which operator is called, with tensors of which shapes, strides, dtypes and contents. The
// contents are any bits: a palette of a few numbers from the input, dealt out by a generator seeded from it. Results
// are compared with those of oracle.h, bit for bit; arguments that are wrong must be refused by an error that names
// them.
#include "arguments.h"
#include "calls.h"
#include "oracle.h"
#include "problem.h"

namespace fuzz {
namespace {

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

// Returns the bits of the cells of the inputs that argmax points to, 0 where it points to none.
std::vector<uint64_t> gathered(const Problem& problem, const std::vector<int32_t>& argmax) {
  std::vector<std::vector<uint64_t>> values;
  for (const at::Tensor& input : problem.inputs) {
    values.push_back(bits(input));
  }
  std::vector<uint64_t> result(argmax.size(), 0);
  with_rois(problem, [&](const auto* rois) {
    oracle::for_each_cell(problem.oracle_problem, rois, argmax.data(),
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
  with_rois(problem, [&](const auto* rois) { expected = oracle::argmax(problem.oracle_problem, rois); });
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
    // `out` has the right shape in any memory, or another shape, and is then resized.
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

// Makes an argmax of any numbers, most of which are cells.
at::Tensor any_argmax(Bytes& bytes, const Problem& problem) {
  at::Tensor argmax = uninitialised(bytes, problem.output_sizes(), at::kInt);
  if (bytes.one_in(3)) {
    fill(bytes, argmax);
    return argmax;
  }
  int64_t most = 1;
  for (const oracle::Level& level : problem.oracle_problem.levels) {
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
  REQUIRE(results.size() == problem.oracle_problem.levels.size(), "there are %zu gradients", results.size());

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
      check(oracle::backward<std::decay_t<decltype(*rois)>, double>(problem.oracle_problem, rois, grads.data(),
                                                                    cells.data()));
    } else {
      check(oracle::backward<std::decay_t<decltype(*rois)>, float>(problem.oracle_problem, rois, grads.data(),
                                                                   cells.data()));
    }
  });
}

// ---- Wrong arguments: each operator with one of them replaced.

// Makes a tensor that no operator takes in the place of `like`.
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

// Checks that an operator refuses a wrong tensor in one place of its arguments, and names the argument. Where the
// tensor is undefined or on a device without kernels, the dispatcher refuses it, in words of its own.
void check_wrong_tensor(Bytes& bytes, const char* name, Stack stack, size_t position, const char* argument) {
  const at::Tensor wrong = wrong_tensor(bytes, stack[position].toTensor());
  stack[position] = wrong;
  std::vector<std::string> names = {argument};
  if (!wrong.defined() || !wrong.is_cpu()) {
    names.insert(names.end(), {"Meta", "backend", "undefined", "Undefined", "device", "input", "rois", "argmax"});
  }
  expect_refusal(name, stack, names);
}

constexpr int64_t kBadSizes[] = {0, -1, INT64_MIN, int64_t{1} << 31, INT64_MAX};
constexpr int64_t kBadCounts[] = {-1, INT64_MIN, int64_t{1} << 62, INT64_MAX};

// Checks that the backward, given these arguments, refuses heights and widths that are negative or too large.
void check_wrong_map_sizes(Bytes& bytes, const Problem& problem, const char* backward, Stack stack) {
  if (problem.pyramid) {
    std::vector<int64_t> heights(problem.oracle_problem.levels.size(), 3);
    std::vector<int64_t> widths = heights;
    heights[bytes.in(0, heights.size() - 1)] = bytes.pick(kBadCounts);
    stack[4] = bytes.one_in(2) ? heights : widths;
    stack[5] = stack[4].toIntVector() == heights ? widths : heights;
  } else {
    stack[bytes.in(4, 5)] = -bytes.in(1, 99);
  }
  expect_refusal(backward, stack, {"negative", "H*W"});
}

void check_refusals(Bytes& bytes, const Problem& problem) {
  const at::Tensor argmax = any_argmax(bytes, problem);
  const at::Tensor grad_output = features(bytes, problem.output_sizes(), problem.dtype);
  const char* forward = name_of(problem, "roi_pool", "multiscale_roi_pool");
  const char* backward = name_of(problem, "roi_pool_backward", "multiscale_roi_pool_backward");
  const char* gather = name_of(problem, "roi_pool_gather", "multiscale_roi_pool_gather");
  Stack stack = problem.forward_arguments();
  switch (bytes.in(0, 8)) {
    case 0:
      stack[bytes.in(2, 3)] = bytes.pick(kBadSizes);
      return expect_refusal(forward, stack, {"output_size"});
    case 1:
      return check_wrong_tensor(bytes, forward, stack, 1, "rois");
    case 2:
      return check_wrong_tensor(bytes, backward, problem.backward_arguments(grad_output, argmax), 0, "grad_output");
    case 3:
      return check_wrong_tensor(bytes, backward, problem.backward_arguments(grad_output, argmax), 2, "argmax");
    case 4:
      return check_wrong_tensor(bytes, gather, problem.gather_arguments(argmax), 2, "argmax");
    case 5:
      if (!problem.pyramid) {
        return check_wrong_tensor(bytes, gather, problem.gather_arguments(argmax), 0, "input");
      }
      return;
    case 6:
      return check_wrong_map_sizes(bytes, problem, backward, problem.backward_arguments(grad_output, argmax));
    case 7:
      if (problem.pyramid) {
        stack[0] = std::vector<at::Tensor>(bytes.one_in(2) ? 0 : 9, problem.inputs[0]);
        return expect_refusal(forward, stack, {"inputs", "expected", "fallback", "Tensor"});
      }
      stack[0] = wrong_tensor(bytes, problem.inputs[0]);
      return expect_refusal(forward, stack, {"input", "Meta", "backend", "undefined", "device", "rois"});
    default:  // sizes that overflow are refused, unless there is nothing to allocate
      stack = problem.backward_arguments(grad_output, argmax);
      stack[3] = bytes.pick(kBadCounts);
      call(backward, stack);
      stack = problem.forward_arguments();
      stack[2] = stack[3] = int64_t{INT32_MAX};
      call(forward, stack);
  }
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fuzz;
  const c10::InferenceMode guard;  // no tensor is set up for autograd
  FuzzedDataProvider provider(data, size);
  Bytes bytes(provider);
  const int64_t action = bytes.in(0, 15);
  const Problem one = problem(bytes);
  current = &one;
  const char* forward = name_of(one, "roi_pool", "multiscale_roi_pool");
  if (!one.is_valid()) {
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
