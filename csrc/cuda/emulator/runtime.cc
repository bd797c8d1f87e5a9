// runtime.h on the host: memory is the host's, a stream does its work at once.
#include "cuda/runtime.h"

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/error.h"
#include "cuda/emulator/launch.h"

namespace pythia_rt::cuda {

namespace {

std::mutex memory_mutex;
std::map<const std::byte*, size_t> sizes;  // of what is allocated
size_t bytes_taken = 0;

size_t total_bytes() {
  const char* bytes = std::getenv("PYTHIA_RT_EMULATOR_MEMORY");
  return bytes == nullptr ? size_t{8} << 30 : std::strtoull(bytes, nullptr, 10);
}

// Aligned as CUDA's is, and exactly sized: the address sanitizer sees the first byte beyond it.
std::byte* take(size_t bytes) {
  void* memory = nullptr;
  if (posix_memalign(&memory, 256, bytes) != 0) throw std::bad_alloc();
  std::memset(memory, 0, bytes);
  return static_cast<std::byte*>(memory);
}

using Work = std::vector<std::function<void()>>;
thread_local Work* recording = nullptr;

class RecordedWork : public Recording {
 public:
  explicit RecordedWork(Work work) : work_(std::move(work)) {}
  void replay(Stream) override {
    for (const auto& step : work_) step();
  }

 private:
  Work work_;
};

}  // namespace

void emulator::queue(Stream, std::function<void()> work) {
  if (recording != nullptr) {
    recording->push_back(std::move(work));
  } else {
    work();
  }
}

std::string why_unavailable() {
  const char* reason = std::getenv("PYTHIA_RT_EMULATOR_ABSENT");
  return reason == nullptr ? "" : reason;
}

DeviceInfo device_info() {
  const std::lock_guard lock(memory_mutex);
  const size_t total = total_bytes();
  return {"emulator", 0, total, total > bytes_taken ? total - bytes_taken : 0};
}

std::byte* allocate(size_t bytes) {
  const std::lock_guard lock(memory_mutex);
  if (bytes_taken + bytes > total_bytes()) {
    throw OutOfMemory(text("the CUDA device has no room for ", bytes, " bytes"), bytes);
  }
  std::byte* memory = take(bytes);
  sizes[memory] = bytes;
  bytes_taken += bytes;
  return memory;
}

void release(std::byte* memory) noexcept {
  if (memory == nullptr) return;
  const std::lock_guard lock(memory_mutex);
  const auto found = sizes.find(memory);
  bytes_taken -= found->second;
  sizes.erase(found);
  std::free(memory);
}

std::byte* allocate_host(size_t bytes) { return take(bytes); }
void release_host(std::byte* memory) noexcept { std::free(memory); }

Stream make_stream() { return nullptr; }
void release_stream(Stream) noexcept {}

void synchronise(Stream) {
  if (recording != nullptr) throw_failed("the CUDA device failed: a wait cannot be recorded");
}

void copy_to_device(std::byte* device, const void* host, size_t bytes, Stream stream) {
  emulator::queue(stream, [=] { std::memcpy(device, host, bytes); });
}

void copy_to_host(void* host, const std::byte* device, size_t bytes, Stream stream) {
  emulator::queue(stream, [=] { std::memcpy(host, device, bytes); });
}

std::unique_ptr<Recording> record(Stream, const std::function<void()>& work) {
  Work steps;
  recording = &steps;
  try {
    work();
  } catch (...) {
    recording = nullptr;
    throw;
  }
  recording = nullptr;
  return std::make_unique<RecordedWork>(std::move(steps));
}

void check_launches() {}

}  // namespace pythia_rt::cuda
