// What torch asks of a device: guards, streams, events, generators, hooks.
#pragma once

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <chrono>

#include "memory.h"

namespace {

double now_ms() {
  const auto since = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double, std::milli>(since).count();
}

// Work is finished when the call returns, so streams are numbers and events are times.
std::atomic<c10::StreamId> next_stream{1};
thread_local std::map<c10::DeviceIndex, c10::StreamId> current_stream;

struct CardGuard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return MLU; }
  c10::Device exchangeDevice(c10::Device device) const override {
    const c10::Device before(MLU, current);
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return {MLU, current}; }
  // No initialisation here: the autograd engine calls this for processes that use the CPU only.
  void setDevice(c10::Device device) const override {
    if (device.index() < 0 || device.index() == current) return;
    check_index(device.index());
    current = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.index() >= 0) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    const auto index = device.index() < 0 ? current : device.index();
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(MLU, index), current_stream[index]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override {
    return c10::Stream(c10::Stream::UNSAFE, device, 0);
  }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return getNewStream(device, 0);
  }
  c10::Stream getNewStream(c10::Device device, int) const override {
    initialize();
    const auto index = device.index() < 0 ? current : device.index();
    return c10::Stream(c10::Stream::UNSAFE, c10::Device(MLU, index), next_stream++);
  }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    const auto before = getStream(stream.device());
    current_stream[stream.device_index()] = stream.id();
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return count(); }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeDevice(c10::DeviceIndex) const override {}
  void synchronizeEvent(void*) const override {}
  void record(void** event, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {
    if (!*event) *event = new double;
    *static_cast<double*>(*event) = now_ms();
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void* event, c10::DeviceIndex) const noexcept override {
    delete static_cast<double*>(event);
  }
  double elapsedTime(void* from, void* to, c10::DeviceIndex) const override {
    TORCH_CHECK(from && to, "both events must be recorded before their distance is asked for");
    return *static_cast<double*>(to) - *static_cast<double*>(from);
  }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, CardGuard)

// A generator that says it is on the card and draws as the CPU's does.
struct CardGenerator final : at::CPUGeneratorImpl {
  explicit CardGenerator(c10::DeviceIndex index) : index_(index) { lend(false); }
  void lend(bool to_cpu) {
    device_ = to_cpu ? c10::Device(c10::kCPU) : c10::Device(MLU, index_);
  }
  c10::DeviceIndex index_;
};

struct CardHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return count() > 0; }
  void init() const override { initialize(); }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return initialized; }
  c10::DeviceIndex deviceCount() const override { return count(); }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override {
    CardGuard().setDevice({MLU, index});
  }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return CardGuard().exchangeDevice({MLU, index}).index();
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return exchangeDevice(index);
  }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    return at::detail::getDefaultCPUGenerator();
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override {
    return at::make_generator<CardGenerator>(index < 0 ? current : index);
  }
  bool isPinnedPtr(const void* data) const override {
    std::lock_guard<std::mutex> lock(pinned_guard);
    auto after = pinned.upper_bound(static_cast<const char*>(data));
    if (after == pinned.begin()) return false;
    --after;
    return static_cast<const char*>(data) < after->first + after->second;
  }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  at::Device getDeviceFromPtr(void*) const override { return {MLU, current}; }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    const c10::DeviceGuard on(storage.device());
    auto grown = allocator.allocate(size);
    const size_t kept = std::min(size, storage.nbytes());
    if (kept) std::memcpy(grown.get(), storage.data(), kept);
    storage.set_data_ptr_noswap(std::move(grown));
    storage.set_nbytes(size);
  }
};

CardHooks hooks;
const bool registered = [] {
  at::RegisterPrivateUse1HooksInterface(&hooks);
  return true;
}();

}  // namespace
