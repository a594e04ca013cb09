// Runs what export_head.py wrote, without Python: serve FOLDER. Fails unless all results are those of Python, bit for
// bit.
#include <roipool/ops.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/script.h>
#include <torch/torch.h>

#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {

// Reads the dictionary that torch.save wrote.
c10::impl::GenericDict read_tensors(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  TORCH_CHECK(file, "cannot read ", path);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  return torch::pickle_load(bytes).toGenericDict();
}

bool report(const std::string& what, const at::Tensor& actual, const at::Tensor& expected) {
  const bool is_equal = torch::equal(actual, expected);
  std::cout << what << ": " << actual.sizes() << (is_equal ? ", equal" : ", DIFFERENT") << std::endl;
  return is_equal;
}

// Returns whether all results are those of Python.
bool serve(const std::string& folder) {
  const c10::InferenceMode inference;
  const c10::impl::GenericDict tensors = read_tensors(folder + "/tensors.pt");
  std::vector<at::Tensor> inputs;
  for (const c10::IValue& input : tensors.at("inputs").toListRef()) {
    inputs.push_back(input.toTensor());
  }
  bool is_equal = true;

  const std::vector<at::Tensor> maps(inputs.begin(), inputs.end() - 1);
  const at::Tensor pooled =
      roipool::multiscale_roi_pool(maps, inputs.back(), 7, 7, {1.0 / 4, 1.0 / 8, 1.0 / 16, 1.0 / 32});
  is_equal &= report("operator", pooled, tensors.at("pooled").toTensor());

  torch::inductor::AOTIModelPackageLoader package(folder + "/head.pt2");
  is_equal &= report("AOTInductor package", package.run(inputs)[0], tensors.at("package").toTensor());

  torch::jit::Module traced = torch::jit::load(folder + "/head_traced.pt");
  const std::vector<c10::IValue> arguments(inputs.begin(), inputs.end());
  is_equal &= report("traced module", traced.forward(arguments).toTensor(), tensors.at("traced").toTensor());
  return is_equal;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: serve FOLDER" << std::endl;
    return 2;
  }
  try {
    return serve(argv[1]) ? 0 : 1;
  } catch (const std::exception& error) {
    std::cerr << "serve: " << error.what() << std::endl;
    return 1;
  }
}
