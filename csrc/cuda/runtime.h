// What the CUDA backend needs from the machine: memory, copies, a queue of work, recorded work.
// Implemented by runtime.cu over CUDA's runtime library and by tests/native/emulator/runtime.cc on
// the host.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>

namespace pythia_rt::cuda {

// Work that is done in order; a cudaStream_t, or the emulator's.
using Stream = void*;

struct DeviceInfo {
  std::string name;
  int compute_capability;  // 10 * major + minor
  size_t total_bytes;
  size_t free_bytes;
};

// There was no room for `bytes` on the device.
struct OutOfMemory : std::runtime_error {
  OutOfMemory(const std::string& sentence, size_t bytes_wanted)
      : std::runtime_error(sentence), bytes(bytes_wanted) {}
  size_t bytes;
};

// Why no device can be used, as a sentence without its end; empty if one can. Never throws.
std::string why_unavailable();

// The following throw std::runtime_error with a sentence when the device fails.
DeviceInfo device_info();

// Zeroed memory of the device. Throws OutOfMemory.
std::byte* allocate(size_t bytes);
void release(std::byte* memory) noexcept;

// Memory of the host that the device copies from and to without a detour.
std::byte* allocate_host(size_t bytes);
void release_host(std::byte* memory) noexcept;

Stream make_stream();
void release_stream(Stream stream) noexcept;
// Waits for all that was queued.
void synchronise(Stream stream);

// Queued. `host` must come from allocate_host or outlive a synchronise().
void copy_to_device(std::byte* device, const void* host, size_t bytes, Stream stream);
void copy_to_host(void* host, const std::byte* device, size_t bytes, Stream stream);
void copy_on_device(std::byte* to, const std::byte* from, size_t bytes, Stream stream);

// Launches and copies that were recorded once and can be queued again as a whole.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay(Stream stream) = 0;
};

// Records what `work` queues on `stream`, without running it.
std::unique_ptr<Recording> record(Stream stream, const std::function<void()>& work);

// Throws if a launch since the last call was refused.
void check_launches();

}  // namespace pythia_rt::cuda
