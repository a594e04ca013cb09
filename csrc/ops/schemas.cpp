// The operators' schemas. Their kernels are registered by each device; derivatives and fake kernels come from Python
// (roipool/_ops), since the stable ABI has neither.
#include <torch/csrc/stable/library.h>

// argmax, where an operator takes it, is that of a forward with the same rois and scales. An element that names a cell
// outside of its bin has no defined gradient: CUDA may leave it out.

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
      " SymInt width, float spatial_scale) -> Tensor");
  m.def("roi_pool_gather(Tensor input, Tensor rois, Tensor argmax, float spatial_scale) -> Tensor");

  // The operators for a feature pyramid: each region is pooled from one of the levels.
  m.def(
      "multiscale_roi_pool(Tensor[] inputs, Tensor rois, SymInt pooled_height, SymInt pooled_width,"
      " float[] spatial_scales, float canonical_scale, int canonical_level) -> Tensor");
  m.def(
      "multiscale_roi_pool_with_argmax(Tensor[] inputs, Tensor rois, SymInt pooled_height, SymInt pooled_width,"
      " float[] spatial_scales, float canonical_scale, int canonical_level) -> (Tensor output, Tensor argmax)");
  m.def(
      "multiscale_roi_pool_backward(Tensor grad_output, Tensor rois, Tensor argmax, SymInt batch_size,"
      " SymInt[] heights, SymInt[] widths, float[] spatial_scales, float canonical_scale, int canonical_level)"
      " -> Tensor[]");
  m.def(
      "multiscale_roi_pool_gather(Tensor[] inputs, Tensor rois, Tensor argmax, float[] spatial_scales,"
      " float canonical_scale, int canonical_level) -> Tensor");
}
