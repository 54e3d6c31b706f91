// Autocast for device type "mlu": torch's own lists; nms and roi_align in float32.
#pragma once

#include <ATen/autocast_mode.h>
#include <torch/library.h>

#include "memory.h"

namespace {

at::Tensor nms_in_float(const at::Tensor& boxes, const at::Tensor& scores, double threshold) {
  const c10::impl::ExcludeDispatchKeyGuard off(c10::DispatchKey::AutocastPrivateUse1);
  static auto op = c10::Dispatcher::singleton()
                       .findSchemaOrThrow("torchvision::nms", "")
                       .typed<at::Tensor(const at::Tensor&, const at::Tensor&, double)>();
  return op.call(
      at::autocast::cached_cast(at::kFloat, boxes, MLU),
      at::autocast::cached_cast(at::kFloat, scores, MLU), threshold);
}

at::Tensor roi_align_in_float(
    const at::Tensor& input, const at::Tensor& rois, double scale, c10::SymInt height,
    c10::SymInt width, int64_t sampling_ratio, bool aligned) {
  const c10::impl::ExcludeDispatchKeyGuard off(c10::DispatchKey::AutocastPrivateUse1);
  static auto op =
      c10::Dispatcher::singleton()
          .findSchemaOrThrow("torchvision::roi_align", "")
          .typed<at::Tensor(
              const at::Tensor&, const at::Tensor&, double, c10::SymInt, c10::SymInt, int64_t,
              bool)>();
  return op
      .call(
          at::autocast::cached_cast(at::kFloat, input, MLU),
          at::autocast::cached_cast(at::kFloat, rois, MLU), scale, height, width, sampling_ratio,
          aligned)
      .to(input.scalar_type());
}

}  // namespace

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FLOAT(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
#define FLOAT_IF_UNSAID(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
  AT_FORALL_FP32(FLOAT)
  AT_FORALL_PROMOTE(WIDEST)
  AT_FORALL_FP32_SET_OPT_DTYPE(FLOAT_IF_UNSAID)
}

TORCH_LIBRARY_IMPL(torchvision, AutocastPrivateUse1, m) {
  m.impl("nms", &nms_in_float);
  m.impl("roi_align", &roi_align_in_float);
}
