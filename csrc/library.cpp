// The operators' schemas. Their kernels register themselves per device; autograd and fake kernels come from Python
// (roipool/_library.py), since the stable ABI has neither.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(roipool, m) {
  m.def(
      "roi_pool(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale)"
      " -> Tensor");
  m.def(
      "roi_pool.out(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale, *,"
      " Tensor(a!) out) -> Tensor(a!)");
  m.def(
      "roi_pool_with_argmax(Tensor input, Tensor rois, SymInt pooled_height, SymInt pooled_width, float spatial_scale)"
      " -> (Tensor output, Tensor argmax)");
  m.def(
      "roi_pool_backward(Tensor grad_output, Tensor rois, Tensor argmax, SymInt batch_size, SymInt height,"
      " SymInt width) -> Tensor");
  m.def("roi_pool_gather(Tensor input, Tensor rois, Tensor argmax) -> Tensor");
}
