// Visible devices, the state of the driver in this process, and counted memory.
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

namespace {

constexpr auto MLU = c10::DeviceType::PrivateUse1;
constexpr int MAX_DEVICES = 64;
constexpr size_t GRAIN = 512;  // bytes that an allocation is rounded up to

bool env_is(const char* name, const char* value) {
  const char* found = std::getenv(name);
  return found && std::string(found) == value;
}

size_t env_size(const char* name, size_t otherwise) {
  const char* found = std::getenv(name);
  return found && *found ? std::strtoull(found, nullptr, 10) : otherwise;
}

int cards_of_host() {
  return std::min<int>(env_size("TORCH_MLU_SIM_DEVICES", 1), MAX_DEVICES);
}

int card_named(const std::string& text, int cards) {
  if (text.rfind("MLU-", 0) == 0) {
    int found = -1;
    for (int card = 0; card < cards; ++card) {
      char uuid[48];
      std::snprintf(uuid, sizeof uuid, "MLU-00000000-0000-0000-0000-%012d", card);
      if (std::string(uuid).rfind(text, 0) == 0) {
        if (found >= 0) return -1;  // ambiguous
        found = card;
      }
    }
    return found;
  }
  char* end = nullptr;
  long card = std::strtol(text.c_str(), &end, 10);
  return end == text.c_str() || card < 0 || card >= cards ? -1 : static_cast<int>(card);
}

// The cards that the environment leaves visible, in its order. The first unknown name ends the
// list, a repeat empties it.
std::vector<int> read_visible() {
  const int cards = cards_of_host();
  const char* list = nullptr;
  for (const char* name : {"CN_VISIBLE_DEVICES", "MLU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"}) {
    if ((list = std::getenv(name))) break;
  }
  std::vector<int> visible;
  if (!list) {
    for (int card = 0; card < cards; ++card) visible.push_back(card);
    return visible;
  }
  std::stringstream words(list);
  std::string word;
  while (std::getline(words, word, ',')) {
    word.erase(0, word.find_first_not_of(" \t"));
    const int card = card_named(word, cards);
    if (card < 0) break;
    if (std::count(visible.begin(), visible.end(), card)) return {};
    visible.push_back(card);
  }
  return visible;
}

struct Counter {
  size_t allocated = 0, peak = 0, reserved = 0, blocks = 0, calls = 0;
};

std::mutex guard;
std::vector<int> visible;               // fixed when the driver is first touched
std::atomic<bool> touched{false};       // the driver has read the environment
std::atomic<bool> initialized{false};   // this process holds a context
std::atomic<bool> forked{false};        // a child of a process that had touched the driver
Counter counters[MAX_DEVICES];
thread_local c10::DeviceIndex current = 0;

void touch() {
  std::lock_guard<std::mutex> lock(guard);
  if (touched) return;
  visible = read_visible();
  touched = true;
  // The lock is held over a fork, so that the child finds it free.
  pthread_atfork(
      [] { guard.lock(); }, [] { guard.unlock(); },
      [] {
        forked = true;
        guard.unlock();
      });
}

std::vector<int> cards() { return touched ? visible : read_visible(); }

c10::DeviceIndex count() noexcept {
  try {
    return static_cast<c10::DeviceIndex>(cards().size());
  } catch (...) {
    return 0;
  }
}

void initialize() {
  if (initialized && !forked) return;
  TORCH_CHECK(
      !forked,
      "Cannot re-initialize MLU in forked subprocess. To use MLU with multiprocessing, "
      "you must use the 'spawn' start method");
  touch();
  TORCH_CHECK(!visible.empty(), "No MLU devices are available");
  initialized = true;
}

void check_index(c10::DeviceIndex index) {
  TORCH_CHECK(
      index < count(), "invalid device ordinal: mlu:", static_cast<int>(index), " of ",
      static_cast<int>(count()), " visible MLU device(s)");
}


size_t capacity() {
  return env_size("TORCH_MLU_SIM_MEMORY", size_t{24576} << 20);
}

// A card dies when a file of its number appears in the folder TORCH_MLU_SIM_DEAD.
void check_alive(c10::DeviceIndex index) {
  const char* folder = std::getenv("TORCH_MLU_SIM_DEAD");
  if (!folder) return;
  const int card = cards().at(index);
  const auto path = std::string(folder) + "/" + std::to_string(card);
  TORCH_CHECK(
      access(path.c_str(), F_OK) != 0,
      "CNRT error: an error occurred on the device (error code 100125, device ", card, ")");
}

struct Block {
  void* memory;
  size_t size;
  int device;
};

void release(void* context) {
  auto* block = static_cast<Block*>(context);
  {
    std::lock_guard<std::mutex> lock(guard);
    counters[block->device].allocated -= block->size;
    counters[block->device].blocks -= 1;
  }
  std::free(block->memory);
  delete block;
}

struct CardAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t wanted) override {
    initialize();
    check_index(current);
    check_alive(current);
    const c10::Device device(MLU, current);
    if (wanted == 0) return {nullptr, nullptr, &release_nothing, device};
    const size_t size = (wanted + GRAIN - 1) / GRAIN * GRAIN;
    size_t allocated = 0;
    bool fits = false;
    {
      std::lock_guard<std::mutex> lock(guard);
      auto& counter = counters[current];
      allocated = counter.allocated;
      fits = allocated + size <= capacity();
      if (fits) {
        counter.allocated += size;
        counter.peak = std::max(counter.peak, counter.allocated);
        counter.reserved = std::max(counter.reserved, counter.allocated);
        counter.blocks += 1;
        counter.calls += 1;
      }
    }
    TORCH_CHECK_WITH(
        OutOfMemoryError, fits, "MLU out of memory. Tried to allocate ", wanted,
        " bytes. MLU ", static_cast<int>(current), " has a total capacity of ", capacity(),
        " bytes, of which ", capacity() - allocated, " bytes are free.");
    void* memory = nullptr;
    TORCH_CHECK(posix_memalign(&memory, 64, size) == 0, "the host has no memory left");
    return {memory, new Block{memory, size, current}, &release, device};
  }
  static void release_nothing(void*) {}
  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

CardAllocator allocator;
REGISTER_ALLOCATOR(MLU, &allocator);

// Page-locked host memory: plain host memory whose addresses are remembered.
auto& pinned = *new std::map<const char*, size_t>;  // never destroyed: tensors may outlive it
std::mutex pinned_guard;

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t wanted) override {
    initialize();
    void* memory = nullptr;
    TORCH_CHECK(
        posix_memalign(&memory, 64, std::max<size_t>(wanted, 1)) == 0,
        "the host has no memory left");
    std::lock_guard<std::mutex> lock(pinned_guard);
    pinned[static_cast<char*>(memory)] = std::max<size_t>(wanted, 1);
    return {memory, memory, &unpin, c10::Device(c10::kCPU)};
  }
  static void unpin(void* memory) {
    {
      std::lock_guard<std::mutex> lock(pinned_guard);
      pinned.erase(static_cast<char*>(memory));
    }
    std::free(memory);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &unpin; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
};

PinnedAllocator pinned_allocator;

}  // namespace
