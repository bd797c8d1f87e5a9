// runtime.h on the host: memory is the host's, a stream does its work at once. What a device would
// refuse is refused here too.
#include "cuda/runtime.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/error.h"
#include "emulator/launch.h"
#include "emulator/scheduler.h"

namespace pythia_rt::cuda {

namespace {

constexpr size_t kAlignment = 256;

std::mutex memory_mutex;
std::map<uintptr_t, size_t> sizes;  // of what is allocated
size_t bytes_taken = 0;

size_t total_bytes() {
  const char* bytes = std::getenv("PYTHIA_RT_EMULATOR_MEMORY");
  return bytes == nullptr ? size_t{8} << 30 : std::strtoull(bytes, nullptr, 10);
}

size_t free_bytes() {
  const size_t total = total_bytes();
  return total > bytes_taken ? total - bytes_taken : 0;
}

// Aligned as CUDA's is, and exactly sized: the address sanitizer sees the first byte beyond it.
std::byte* take_zeroed(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, kAlignment, bytes) != 0) throw std::bad_alloc();
  if (bytes > 0) std::memset(memory, 0, bytes);
  return static_cast<std::byte*>(memory);
}

void copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) std::memcpy(to, from, bytes);
}

// Throws if these bytes are not all in one allocation of the device.
void check_on_device(const std::byte* memory, size_t bytes) {
  const std::lock_guard lock(memory_mutex);
  const auto address = reinterpret_cast<uintptr_t>(memory);
  auto found = sizes.upper_bound(address);
  if (found != sizes.begin()) {
    --found;
    const uintptr_t offset = address - found->first;
    if (offset <= found->second && bytes <= found->second - offset) return;
  }
  throw_failed("the CUDA device failed: invalid argument: a copy of ", bytes,
               " bytes that are not its own");
}

using Work = std::vector<std::function<void()>>;

// What this thread of the host records.
struct Capture {
  Stream stream;
  Work work;
  const char* spoiled = nullptr;  // why it cannot be finished
};
thread_local Capture* capture = nullptr;

// A recording device waits for nothing and neither takes nor gives memory.
void check_not_recording(const char* what) {
  if (capture == nullptr) return;
  capture->spoiled = what;
  throw_failed("the CUDA device failed: ", what, " while work is recorded");
}

class RecordedWork : public Recording {
 public:
  explicit RecordedWork(Work work) : work_(std::move(work)) {}

  void replay(Stream) override {
    emulator::check_device();
    check_not_recording("a replay");
    for (const auto& step : work_) step();
  }

 private:
  Work work_;
};

}  // namespace

void emulator::queue(Stream stream, std::function<void()> work) {
  check_device();
  // The default stream would wait for all others.
  if (stream == nullptr) check_not_recording("work on the default stream");
  if (capture != nullptr && capture->stream == stream) {
    capture->work.push_back(std::move(work));
  } else {
    work();
  }
}

std::string why_unavailable() {
  const char* reason = std::getenv("PYTHIA_RT_EMULATOR_ABSENT");
  return reason == nullptr ? "" : reason;
}

DeviceInfo device_info() {
  emulator::check_device();
  const std::lock_guard lock(memory_mutex);
  return {"emulator", 0, total_bytes(), free_bytes()};
}

std::byte* allocate(size_t bytes) {
  emulator::check_device();
  check_not_recording("an allocation");
  const std::lock_guard lock(memory_mutex);
  const OutOfMemory no_room(text("the CUDA device has no room for ", bytes, " bytes"), bytes);
  if (bytes > free_bytes()) throw no_room;
  std::byte* memory = nullptr;
  try {
    memory = take_zeroed(bytes);
  } catch (const std::bad_alloc&) {
    throw no_room;
  }
  sizes[reinterpret_cast<uintptr_t>(memory)] = bytes;
  bytes_taken += bytes;
  return memory;
}

void release(std::byte* memory) noexcept {
  if (memory == nullptr) return;
  if (capture != nullptr) capture->spoiled = "a release";
  const std::lock_guard lock(memory_mutex);
  const auto found = sizes.find(reinterpret_cast<uintptr_t>(memory));
  if (found != sizes.end()) {
    bytes_taken -= found->second;
    sizes.erase(found);
  }
  std::free(memory);  // the address sanitizer knows what was released before
}

std::byte* allocate_host(size_t bytes) {
  emulator::check_device();
  check_not_recording("an allocation");
  return take_zeroed(bytes);
}

void release_host(std::byte* memory) noexcept {
  if (memory != nullptr && capture != nullptr) capture->spoiled = "a release";
  std::free(memory);
}

// An address that is nobody else's.
Stream make_stream() {
  emulator::check_device();
  return new char;
}

void release_stream(Stream stream) noexcept { delete static_cast<char*>(stream); }

void synchronise(Stream) {
  emulator::check_device();
  check_not_recording("a wait");
}

void copy_to_device(std::byte* device, const void* host, size_t bytes, Stream stream) {
  check_on_device(device, bytes);
  emulator::queue(stream, [=] { copy(device, host, bytes); });
}

void copy_to_host(void* host, const std::byte* device, size_t bytes, Stream stream) {
  check_on_device(device, bytes);
  emulator::queue(stream, [=] { copy(host, device, bytes); });
}

void copy_on_device(std::byte* to, const std::byte* from, size_t bytes, Stream stream) {
  check_on_device(from, bytes);
  check_on_device(to, bytes);
  emulator::queue(stream, [=] { copy(to, from, bytes); });
}

std::unique_ptr<Recording> record(Stream stream, const std::function<void()>& work) {
  emulator::check_device();
  check_not_recording("a second recording");
  if (stream == nullptr) throw_failed("the CUDA device failed: a recording of the default stream");
  Capture own{stream, {}};
  capture = &own;
  try {
    work();
  } catch (...) {
    capture = nullptr;
    throw;
  }
  capture = nullptr;
  if (own.spoiled != nullptr) {
    throw_failed("the CUDA device failed: ", own.spoiled, " while work was recorded");
  }
  return std::make_unique<RecordedWork>(std::move(own.work));
}

// A launch that is refused has thrown already.
void check_launches() { emulator::check_device(); }

}  // namespace pythia_rt::cuda
