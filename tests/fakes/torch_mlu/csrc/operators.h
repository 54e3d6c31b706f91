// Tensors of a card and the operators on them, carried out by the CPU's kernels.
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/ATen.h>
#include <ATen/NativeFunctions.h>
#include <ATen/native/CPUFallback.h>
#include <torch/library.h>

#include <set>

#include "runtime.h"

namespace {

void refuse_bfloat16(c10::ScalarType dtype) {
  TORCH_CHECK(
      dtype != c10::kBFloat16,
      "BFloat16 is not supported on MLU370 (is_bf16_supported() is False; its major version is 3)");
}

c10::DeviceGuard guard_of(std::optional<c10::Device> device) {
  return c10::DeviceGuard(device.value_or(c10::Device(MLU, current)));
}

at::Tensor empty_card(
    c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
    std::optional<c10::Device> device, std::optional<bool>,
    std::optional<c10::MemoryFormat> format) {
  const auto type = c10::dtype_or_default(dtype);
  refuse_bfloat16(type);
  const auto on = guard_of(device);
  return at::detail::empty_generic(
      size, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type, format);
}

at::Tensor empty_strided_card(
    c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
    std::optional<c10::Layout>, std::optional<c10::Device> device, std::optional<bool>) {
  const auto type = c10::dtype_or_default(dtype);
  refuse_bfloat16(type);
  const auto on = guard_of(device);
  return at::detail::empty_strided_generic(
      size, stride, &allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), type);
}

// The same memory as a tensor of the CPU. The tensor must outlive what is returned.
at::Tensor host(const at::Tensor& tensor) {
  if (!tensor.defined() || tensor.is_cpu()) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(c10::kCPU));
}

void round_double(const at::Tensor& tensor) {
  if (tensor.defined() && tensor.scalar_type() == c10::kDouble && tensor.numel()) {
    auto memory = host(tensor);
    memory.copy_(memory.to(c10::kFloat));
  }
}

at::Tensor to_card(const at::Tensor& made, c10::Device device) {
  if (!made.defined()) return made;
  auto result = at::empty_strided(made.sizes(), made.strides(), made.options().device(device));
  host(result).copy_(made);
  round_double(result);
  return result;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool) {
  initialize();
  host(dst).copy_(host(self));
  return dst;
}

const at::Tensor& resize_card(
    const at::Tensor& self, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  const c10::DeviceGuard on(self.device());
  return at::native::resize_(self, size, format);
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  if (dst.sizes() != self.sizes()) dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

at::Scalar local_scalar(const at::Tensor& self) { return at::_local_scalar_dense(host(self)); }

at::Tensor view_card(const at::Tensor& self, c10::IntArrayRef size) {
  return at::native::view(self, size);
}

at::Tensor reshape_alias(const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}

at::Tensor as_strided_card(
    const at::Tensor& self, c10::IntArrayRef size, c10::IntArrayRef stride,
    std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}

at::Tensor unfold_card(const at::Tensor& self, int64_t dim, int64_t size, int64_t step) {
  return at::native::unfold(self, dim, size, step);
}

at::Tensor& set_storage_at(
    at::Tensor& self, at::Storage source, int64_t offset, c10::IntArrayRef size,
    c10::IntArrayRef stride) {
  return at::native::set_storage_cpu_(self, source, offset, size, stride);
}

at::Tensor& set_storage(at::Tensor& self, at::Storage source) {
  const auto elements = static_cast<int64_t>(source.nbytes() / self.dtype().itemsize());
  return at::native::set_storage_cpu_(self, source, 0, {elements});
}

at::Tensor& set_nothing(at::Tensor& self) {
  const c10::DeviceGuard on(self.device());
  const at::Storage none(
      c10::Storage::use_byte_size_t(), 0, allocator.allocate(0), &allocator, true);
  return at::native::set_storage_cpu_(self, none, 0, {0});
}

void record_stream(at::Tensor&, c10::Stream) {}

// Operators that take an index or a mask of the CPU beside tensors of a card.
bool takes_cpu_tensors(const std::string& name) {
  static const std::set<std::string> names{
      "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_",
      "aten::_unsafe_index", "aten::_unsafe_index_put"};
  return names.count(name) > 0;
}

struct Placed {
  std::optional<c10::Device> device;
  bool may_have_cpu;

  void see(const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    if (tensor.is_cpu()) {
      has_cpu = has_cpu || (tensor.dim() > 0 && !may_have_cpu);
    } else if (tensor.device().type() == MLU) {
      refuse_bfloat16(tensor.scalar_type());
      if (!device) device = tensor.device();
      refuse(*device, tensor.device());
    }
    if (has_cpu && device) refuse(*device, c10::Device(c10::kCPU));
  }
  static void refuse(c10::Device one, c10::Device other) {
    TORCH_CHECK(
        one == other,
        "Expected all tensors to be on the same device, but found at least two devices, ", one,
        " and ", other, "!");
  }
  bool has_cpu = false;
};

template <class Visit>
void each_tensor(const c10::IValue& value, Visit visit) {
  if (value.isTensor()) {
    visit(value.toTensor());
  } else if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorList()) visit(tensor);
  } else if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
      if (tensor) visit(*tensor);
    }
  }
}

CardGenerator* card_generator(const c10::IValue& value) {
  if (!value.isGenerator()) return nullptr;
  return dynamic_cast<CardGenerator*>(value.toGenerator().unsafeGetGeneratorImpl());
}

// Runs an operator on the CPU, with the checks and the arithmetic of a card.
void run_boxed(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
  initialize();
  const auto& schema = op.schema();
  const auto arguments = schema.arguments().size();
  Placed placed{std::nullopt, takes_cpu_tensors(schema.name())};
  std::vector<at::Tensor> written;
  std::vector<at::Generator> lent;
  for (size_t i = 0; i < arguments; ++i) {
    const auto& value = (*stack)[stack->size() - arguments + i];
    const auto* alias = schema.arguments()[i].alias_info();
    each_tensor(value, [&](const at::Tensor& tensor) {
      placed.see(tensor);
      if (alias && alias->isWrite()) written.push_back(tensor);
    });
    if (auto* generator = card_generator(value)) {
      generator->lend(true);
      lent.push_back(value.toGenerator());
    }
  }
  auto give_back = [&] {
    for (auto& generator : lent) {
      static_cast<CardGenerator*>(generator.unsafeGetGeneratorImpl())->lend(false);
    }
  };
  try {
    at::native::cpu_fallback(op, stack);
  } catch (...) {
    give_back();
    throw;
  }
  give_back();
  auto round = [](const at::Tensor& tensor) {
    if (tensor.defined() && tensor.device().type() == MLU) round_double(tensor);
  };
  for (const auto& tensor : written) round(tensor);
  const auto returned = schema.returns().size();
  for (size_t i = 0; i < returned; ++i) each_tensor((*stack)[stack->size() - returned + i], round);
}

bool has_kernel(const std::string& name) {
  if (!env_is("TORCH_MLU_SIM_KERNELS", "aten")) return false;
  return name.rfind("aten::", 0) == 0 && name.rfind("aten::_foreach_", 0) != 0 &&
      name.rfind("aten::_fused_", 0) != 0;
}

std::mutex warned_guard;
std::set<std::string> warned;

void fallback(const c10::OperatorHandle& op, c10::DispatchKeySet keys, torch::jit::Stack* stack) {
  const auto name = c10::toString(op.operator_name());
  if (!has_kernel(name)) {
    TORCH_CHECK_NOT_IMPLEMENTED(
        !env_is("ENABLE_FALLBACK_TO_CPU", "0"), "The operator '", name,
        "' is not currently supported on the MLU backend, and ENABLE_FALLBACK_TO_CPU is 0.");
    bool first = false;
    {
      std::lock_guard<std::mutex> lock(warned_guard);
      first = warned.insert(name).second;
    }
    if (first) {
      TORCH_WARN(
          "The operator '", name,
          "' is not currently supported on the MLU backend and will fall back to run on the CPU."
          " This may have performance implications.");
    }
  }
  run_boxed(op, keys, stack);
}

at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups) {
  Placed placed{std::nullopt, false};
  placed.see(input);
  placed.see(weight);
  if (bias) placed.see(*bias);
  std::optional<at::Tensor> host_bias;
  if (bias && bias->defined()) host_bias = host(*bias);
  return to_card(
      at::convolution(
          host(input), host(weight), host_bias, stride, padding, dilation, transposed,
          output_padding, groups),
      input.device());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight,
    c10::IntArrayRef stride, c10::IntArrayRef padding, c10::IntArrayRef dilation, bool transposed,
    c10::IntArrayRef output_padding, int64_t groups, std::array<bool, 3> mask) {
  Placed placed{std::nullopt, false};
  placed.see(grad);
  placed.see(input);
  placed.see(weight);
  const auto outputs = transposed ? weight.size(1) * groups : weight.size(0);
  auto [grad_input, grad_weight, grad_bias] = at::convolution_backward(
      host(grad), host(input), host(weight), c10::IntArrayRef{outputs}, stride, padding, dilation,
      transposed, output_padding, groups, mask);
  const auto device = input.device();
  return {to_card(grad_input, device), to_card(grad_weight, device), to_card(grad_bias, device)};
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&fallback>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty_card);
  m.impl("empty_strided", &empty_strided_card);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("resize_", &resize_card);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("view", &view_card);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("as_strided", &as_strided_card);
  m.impl("unfold", &unfold_card);
  m.impl("set_.source_Storage_storage_offset", &set_storage_at);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_", &set_nothing);
  m.impl("record_stream", &record_stream);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  // torch would take these apart, into other arithmetic than the CPU's.
  for (const char* name : {"native_group_norm", "native_layer_norm", "smooth_l1_loss"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&fallback>());
  }
}

TORCH_LIBRARY_IMPL(torchvision, PrivateUse1, m) {
  for (const char* name :
       {"nms", "roi_align", "_roi_align_backward", "deform_conv2d", "_deform_conv2d_backward"}) {
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&run_boxed>());
  }
}
