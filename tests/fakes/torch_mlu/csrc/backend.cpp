// A stand-in for an MLU card: host memory behind torch's PrivateUse1 dispatch key.
//
// Memory: every block belongs to one device, is counted, and counts against a limit.
// Operators: carried out by the CPU kernels, after the checks that a card would make.
// Python calls the `sim_*` functions through ctypes; everything else goes through torch.

#include "autocast.h"
#include "operators.h"
#include "runtime.h"

extern "C" {
int sim_count() { return count(); }
// What keeps this process from a device; empty: nothing.
const char* sim_initialize() {
  thread_local std::string reason;
  try {
    initialize();
    reason.clear();
  } catch (const c10::Error& error) {
    reason = error.what_without_backtrace();
  }
  return reason.c_str();
}
void sim_touch() { touch(); }
int sim_forked() { return forked; }
int sim_initialized() { return initialized && !forked; }
int sim_current() { return current; }
void sim_set_current(int index) { current = static_cast<c10::DeviceIndex>(index); }
// The number on the host of a visible device; -1: there is none.
int sim_card(int index) {
  const auto all = cards();
  return index >= 0 && index < static_cast<int>(all.size()) ? all[index] : -1;
}
size_t sim_capacity() { return capacity(); }
// Bytes allocated, the most allocated, reserved; then blocks held, and allocations made.
void sim_memory(int index, size_t* out) {
  std::lock_guard<std::mutex> lock(guard);
  const auto& counter = counters[index];
  const size_t all[] = {
      counter.allocated, counter.peak, counter.reserved, counter.blocks, counter.calls};
  std::copy(std::begin(all), std::end(all), out);
}
void sim_reset_peak(int index) {
  std::lock_guard<std::mutex> lock(guard);
  counters[index].peak = counters[index].allocated;
}
void sim_empty_cache() {
  std::lock_guard<std::mutex> lock(guard);
  for (auto& counter : counters) counter.reserved = counter.allocated;
}
}
