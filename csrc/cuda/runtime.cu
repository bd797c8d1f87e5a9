// runtime.h over CUDA's runtime library.
#include <cuda_runtime.h>

#include <utility>

#include "base/error.h"
#include "cuda/runtime.h"

namespace pythia_rt::cuda {

namespace {

constexpr int kLeastCapability = 75;

cudaStream_t handle(Stream stream) { return static_cast<cudaStream_t>(stream); }

__global__ void do_nothing() {}

// Errors stay with the runtime until somebody asks for them: the next call must not get them.
void check(cudaError_t error) {
  if (error == cudaSuccess) return;
  cudaGetLastError();
  throw_failed("the CUDA device failed: ", cudaGetErrorString(error));
}

int capability_of(const cudaDeviceProp& properties) {
  return 10 * properties.major + properties.minor;
}

std::string version_text(int version) { return text(version / 1000, ".", version % 1000 / 10); }

}  // namespace

std::string why_unavailable() {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) {
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver);
    cudaRuntimeGetVersion(&runtime);
    if (driver == 0) return "there is no NVIDIA driver on this machine";
    return text("the NVIDIA driver knows CUDA ", version_text(driver),
                " and this build needs CUDA ", version_text(runtime), ": update the driver");
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    return "there is no CUDA device on this machine, or CUDA_VISIBLE_DEVICES hides it";
  }
  if (error == cudaErrorInitializationError) {
    return "CUDA cannot start in this process; one that was forked after CUDA had been used must "
           "be spawned instead";
  }
  if (error != cudaSuccess) return text("CUDA does not start: ", cudaGetErrorString(error));
  cudaDeviceProp properties;
  cudaError_t status = cudaGetDeviceProperties(&properties, 0);
  if (status == cudaSuccess && capability_of(properties) < kLeastCapability) {
    return text("the device ", properties.name, " has compute capability ", properties.major, ".",
                properties.minor, " and at least 7.5 is needed");
  }
  // Finds out whether this build has code for the device, and whether the device answers.
  if (status == cudaSuccess) {
    cudaFuncAttributes attributes;
    status = cudaFuncGetAttributes(&attributes, do_nothing);
  }
  if (status == cudaSuccess) return "";
  cudaGetLastError();
  if (status == cudaErrorNoKernelImageForDevice) {
    return text("this build has no code for the device ", properties.name, " (sm_",
                capability_of(properties),
                "): build it again with PYTHIA_RT_CUDA_ARCHITECTURES=", capability_of(properties));
  }
  return text("the CUDA device does not answer: ", cudaGetErrorString(status));
}

DeviceInfo device_info() {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, 0));
  DeviceInfo info{properties.name, capability_of(properties), 0, 0};
  check(cudaMemGetInfo(&info.free_bytes, &info.total_bytes));
  return info;
}

std::byte* allocate(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    throw OutOfMemory(text("the CUDA device has no room for ", bytes, " bytes"), bytes);
  }
  check(error);
  const cudaError_t zeroed = cudaMemset(memory, 0, bytes);
  if (zeroed != cudaSuccess) cudaFree(memory);
  check(zeroed);
  return static_cast<std::byte*>(memory);
}

void release(std::byte* memory) noexcept { cudaFree(memory); }

std::byte* allocate_host(size_t bytes) {
  void* memory = nullptr;
  check(cudaMallocHost(&memory, bytes));
  return static_cast<std::byte*>(memory);
}

void release_host(std::byte* memory) noexcept { cudaFreeHost(memory); }

Stream make_stream() {
  cudaStream_t stream = nullptr;
  // One that waits for the default stream, on which memory is zeroed: cudaMemset may return before
  // it is done.
  check(cudaStreamCreate(&stream));
  return stream;
}

void release_stream(Stream stream) noexcept { cudaStreamDestroy(handle(stream)); }

void synchronise(Stream stream) { check(cudaStreamSynchronize(handle(stream))); }

void copy_to_device(std::byte* device, const void* host, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, handle(stream)));
}

void copy_to_host(void* host, const std::byte* device, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, handle(stream)));
}

void copy_on_device(std::byte* to, const std::byte* from, size_t bytes, Stream stream) {
  check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, handle(stream)));
}

namespace {

// A CUDA graph.
class Graph : public Recording {
 public:
  explicit Graph(cudaGraph_t graph) : graph_(graph) {
    const cudaError_t error = cudaGraphInstantiate(&executable_, graph_, 0);
    if (error != cudaSuccess) cudaGraphDestroy(graph_);
    check(error);
  }
  Graph(const Graph&) = delete;
  ~Graph() override {
    cudaGraphExecDestroy(executable_);
    cudaGraphDestroy(graph_);
  }

  void replay(Stream stream) override { check(cudaGraphLaunch(executable_, handle(stream))); }

 private:
  cudaGraph_t graph_;
  cudaGraphExec_t executable_ = nullptr;
};

}  // namespace

std::unique_ptr<Recording> record(Stream stream, const std::function<void()>& work) {
  check(cudaStreamBeginCapture(handle(stream), cudaStreamCaptureModeThreadLocal));
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(handle(stream), &graph);
    if (graph != nullptr) cudaGraphDestroy(graph);
    cudaGetLastError();
    throw;
  }
  check(cudaStreamEndCapture(handle(stream), &graph));
  return std::make_unique<Graph>(graph);
}

void check_launches() { check(cudaGetLastError()); }

}  // namespace pythia_rt::cuda
