// Checks of the emulator itself, with kernels made for it: prints a line for each and returns 1 if
// one fails.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "cuda/port.cuh"

namespace pythia_rt::cuda {
namespace {

using emulator::Collective;
using emulator::Order;

constexpr unsigned kWhole = 0xffffffffu;
constexpr Order kOrders[] = {Order::fifo, Order::reverse, Order::random, Order::skew};

int failures = 0;

void check(bool holds, const std::string& what) {
  std::printf("%s  %s\n", holds ? "ok  " : "FAIL", what.c_str());
  if (!holds) ++failures;
}

// The sentence of what `work` throws.
std::string error_of(const std::function<void()>& work) {
  try {
    work();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

void check_refused(const std::function<void()>& work, const char* part, const char* what) {
  const std::string sentence = error_of(work);
  check(sentence.find(part) != std::string::npos, std::string(what) + ": " + sentence);
}

// An array of the device.
template <typename T>
class Array {
 public:
  explicit Array(size_t count)
      : count_(count), data_(reinterpret_cast<T*>(allocate(count * sizeof(T)))) {}
  explicit Array(const std::vector<T>& values) : Array(values.size()) {
    copy_to_device(reinterpret_cast<std::byte*>(data_), values.data(), count_ * sizeof(T), nullptr);
  }
  Array(const Array&) = delete;
  ~Array() { release(reinterpret_cast<std::byte*>(data_)); }

  T* data() const { return data_; }
  std::byte* bytes() const { return reinterpret_cast<std::byte*>(data_); }
  std::vector<T> read() const {
    std::vector<T> values(count_);
    copy_to_host(values.data(), bytes(), count_ * sizeof(T), nullptr);
    return values;
  }

 private:
  size_t count_;
  T* data_;
};

// ---- orders ----

__global__ void add_up(int* out) {
  SHARED(int, values, [2][96]);
  const int i = static_cast<int>(threadIdx.x + blockDim.x * threadIdx.y);
  int sum = 0;
  for (int round = 0; round < 4; ++round) {
    values[round % 2][i] = round * i;
    __syncthreads();
    int value = values[round % 2][95 - i];
    for (int distance = 16; distance > 0; distance /= 2) {
      value += __shfl_xor_sync(kWhole, value, distance);
    }
    sum += value;
  }
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * 96 + static_cast<unsigned>(i)] = sum;
}

__global__ void number_turns(int* counter, int* turns) {
  turns[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

__global__ void without_barrier(int* out) {
  SHARED(int, values, [64]);
  values[threadIdx.x] = static_cast<int>(threadIdx.x);
  out[threadIdx.x] = values[63 - threadIdx.x];
}

// The second barrier of a loop is missing: what is read may be written anew already.
__global__ void without_second_barrier(int* out) {
  SHARED(int, values, [64]);
  int sum = 0;
  for (int round = 0; round < 8; ++round) {
    values[threadIdx.x] = round;
    __syncthreads();
    sum += values[(threadIdx.x + 32) % 64];
  }
  out[threadIdx.x] = sum;
}

std::vector<int> turns_of(Order order, uint64_t seed) {
  emulator::set_order(order, seed);
  const Array<int> counter(1), turns(4 * 64);
  LAUNCH(number_turns, dim3(4), dim3(64), nullptr, counter.data(), turns.data());
  return turns.read();
}

// Whether some order of threads makes the kernel's 64 results differ from the expected ones.
bool is_defect_seen(void (*kernel)(int*), const std::vector<int>& expected) {
  bool is_seen = false;
  for (const Order order : kOrders) {
    for (uint64_t seed = 1; seed <= 4; ++seed) {
      emulator::set_order(order, seed);
      const Array<int> out(64);
      LAUNCH(kernel, dim3(1), dim3(64), nullptr, out.data());
      is_seen = is_seen || out.read() != expected;
    }
  }
  emulator::set_order(Order::fifo, 1);
  return is_seen;
}

void check_orders() {
  std::vector<int> expected;
  for (int i = 0; i < 12 * 96; ++i) expected.push_back(6 * (32 * (79 - i % 96 / 32 * 32) + 16));
  bool is_right = true;
  for (const Order order : kOrders) {
    for (uint64_t seed = 0; seed < 5; ++seed) {
      emulator::set_order(order, seed);
      const Array<int> out(12 * 96);
      LAUNCH(add_up, dim3(2, 3, 2), dim3(32, 3), nullptr, out.data());
      is_right = is_right && out.read() == expected;
    }
  }
  check(is_right, "barriers and shuffles give the same in every order");
  std::vector<int> forward(256);
  std::iota(forward.begin(), forward.end(), 0);
  const std::vector<int> backward(forward.rbegin(), forward.rend());
  check(turns_of(Order::fifo, 1) == forward && turns_of(Order::reverse, 1) == backward,
        "the first or the last goes first");
  for (const Order order : {Order::random, Order::skew}) {
    check(turns_of(order, 2) == turns_of(order, 2) && turns_of(order, 2) != turns_of(order, 3),
          "random orders: the seed decides");
  }
  emulator::set_order(Order::fifo, 1);
#if defined(__SANITIZE_THREAD__)
  return;  // it would report what follows
#endif
  const std::vector<int> reversed(forward.rend() - 64, forward.rend());
  check(is_defect_seen(without_barrier, reversed), "orders show a missing barrier");
  check(is_defect_seen(without_second_barrier, std::vector<int>(64, 28)),
        "orders show a missing second barrier");
}

// ---- products ----

// d = a * b, of fragments that are laid out as PTX ISA says.
template <int kRows, int kSteps>
__global__ void multiply_whole(const int8_t* a, const int8_t* b, int* d) {
  const int g = static_cast<int>(threadIdx.x) / 4, q = static_cast<int>(threadIdx.x) % 4;
  const auto word = [q](const int8_t* row) { return reinterpret_cast<const unsigned*>(row)[q]; };
  emulator::MmaFragment own = {{}, {}, {1, 2, 3, 4}};
  for (int half = 0; half < kSteps / 16; ++half) {
    for (int i = 0; i < kRows / 8; ++i) {
      own.a[kRows / 8 * half + i] = word(a + kSteps * (g + 8 * i) + 16 * half);
    }
    own.b[half] = word(b + kSteps * g + 16 * half);
  }
  if (kRows == 16) {
    mma_s8(own.d, own.a, own.b);
  } else {
    emulator::collective(Collective::mma_m8n8k16, kWhole, 0, 0, 32, PYTHIA_RT_SITE, &own);
  }
  for (int i = 0; i < kRows / 4; ++i) d[8 * (g + 8 * (i / 2)) + 2 * q + i % 2] = own.d[i] - 1 - i;
}

template <int kRows, int kSteps>
void check_product(const char* what) {
  std::vector<int8_t> a, b;
  unsigned state = 1;
  const auto next = [&] { return static_cast<int8_t>((state = state * 1664525u + 12345u) >> 24); };
  for (int i = 0; i < kRows * kSteps; ++i) a.push_back(next());
  for (int i = 0; i < 8 * kSteps; ++i) b.push_back(next());  // [column][step]
  std::vector<int> expected;
  for (int row = 0; row < kRows; ++row) {
    for (int column = 0; column < 8; ++column) {
      const auto first = a.begin() + row * kSteps;
      const int sum = std::inner_product(first, first + kSteps, b.begin() + column * kSteps, 0);
      expected.push_back(sum);
    }
  }
  const Array<int8_t> device_a(a), device_b(b);
  const Array<int> d(expected.size());
  LAUNCH((multiply_whole<kRows, kSteps>), dim3(1), dim3(32), nullptr, device_a.data(),
         device_b.data(), d.data());
  check(d.read() == expected, what);
}

// ---- memory of the block ----

template <int kCount>
__device__ int* own_memory() {
  SHARED(int, values, [kCount]);
  return values;
}

__global__ void look_at_memory(int* out) {
  int* first = own_memory<8>();
  int* other = own_memory<9>();
  if (threadIdx.x == 0) {
    out[3 * blockIdx.x] = first[7];
    out[3 * blockIdx.x + 1] = own_memory<8>() == first;
    out[3 * blockIdx.x + 2] = other != first;
    first[7] = 5;
  }
}

__global__ void copy_late(const uint4* in, unsigned* out) {
  SHARED(uint4, values, [3]);
  for (int i = 0; i < 3; ++i) {
    copy_async_16(&values[i], in + i);
    copy_async_commit();
  }
  const auto look = [&](int at) {
    for (int i = 0; i < 3; ++i) out[at + i] = values[i].w;
  };
  look(0);
  copy_async_wait<1>();
  look(3);
  copy_async_wait<0>();
  look(6);
}

template <int kBytes>
__global__ void take_shared(char* out) {
  SHARED(char, first, [16]);
  SHARED(char, rest, [kBytes - 16]);
  first[threadIdx.x] = rest[threadIdx.x] = 1;
  out[threadIdx.x] = rest[threadIdx.x];
}

void check_memory_of_blocks() {
  const Array<int> out(6);
  LAUNCH(look_at_memory, dim3(2), dim3(32), nullptr, out.data());
  check(out.read() == std::vector<int>{-1, 1, 1, -1, 1, 1},
        "shared memory: filled anew, and one for each place");
  const Array<uint4> in(std::vector<uint4>{{0, 0, 0, 1}, {0, 0, 0, 2}, {0, 0, 0, 3}});
  const Array<unsigned> seen(9);
  LAUNCH(copy_late, dim3(1), dim3(1), nullptr, in.data(), seen.data());
  const unsigned no = ~0u;
  check(seen.read() == std::vector<unsigned>{no, no, no, 1, 2, no, 1, 2, 3},
        "asynchronous copies land when they are waited for");
  bool is_early = false, is_late = false;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    emulator::set_order(Order::random, seed);
    LAUNCH(copy_late, dim3(1), dim3(1), nullptr, in.data(), seen.data());
    (seen.read()[0] == no ? is_late : is_early) = true;
  }
  emulator::set_order(Order::fifo, 1);
  check(is_early && is_late, "or at once, in random orders");
}

// ---- kernels that are wrong, for 16 threads ----

__global__ void divergent_barrier(int* out) {
  if (threadIdx.x < 8) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  out[threadIdx.x] = 1;
}
__global__ void outside_its_mask(int* out) { out[threadIdx.x] = __shfl_xor_sync(0x00ffu, 1, 1); }
__global__ void lane_that_exited(int* out) {
  if (threadIdx.x < 12) out[threadIdx.x] = __shfl_xor_sync(kWhole, 1, 1);
}
__global__ void shuffle_in_a_branch(int* out) {
  for (unsigned i = 0; i <= threadIdx.x % 2; ++i) out[threadIdx.x] = __shfl_xor_sync(kWhole, 1, 1);
  __syncthreads();
}
__global__ void shuffles_of_two_lines(int* out) {
  if (threadIdx.x < 8) {
    out[threadIdx.x] = __shfl_xor_sync(kWhole, 1, 1);
  } else {
    out[threadIdx.x] = __shfl_xor_sync(kWhole, 1, 1);
  }
}
__global__ void odd_width(int* out) { *out = __shfl_xor_sync(kWhole, 1, 1, 12); }
__global__ void copy_from_the_middle(int* out) {
  SHARED(uint4, values, [1]);
  copy_async_16(values, out + 1);
}
__global__ void copies_without_end(int* out) {
  SHARED(uint4, values, [1]);
  for (int i = 0; i < 400; ++i) copy_async_16(values, out);
}
__global__ void product_of_half_a_warp(int*) {
  int d[4] = {};
  mma_s8(d, {0, 0, 0, 0}, {0, 0});
}

void check_wrong_kernels() {
  const std::pair<void (*)(int*), const char*> wrong[] = {
      {divergent_barrier, "__syncthreads in divergent code"},
      {outside_its_mask, "the calling lane is not in the mask"},
      {lane_that_exited, "names a lane that has exited"},
      {shuffle_in_a_branch, "threads wait for each other for ever"},
      {shuffles_of_two_lines, "threads wait for each other for ever"},
      {odd_width, "the width of a shuffle is not a power of two"},
      {copy_from_the_middle, "does not begin at a multiple"},
      {copies_without_end, "more than 64 asynchronous copies"},
      {product_of_half_a_warp, "has exited or does not exist"},
  };
  const Array<int> out(32);
  for (const auto& each : wrong) {
    bool is_seen = true;
    std::string sentence;
    for (const Order order : kOrders) {
      emulator::set_order(order, 1);
      sentence = error_of([&] { LAUNCH(each.first, dim3(2), dim3(16), nullptr, out.data()); });
      for (const char* part : {each.second, "emulator_checks.cc:", "thread (", ",0,0), block ("}) {
        is_seen = is_seen && sentence.find(part) != std::string::npos;
      }
    }
    check(is_seen, sentence);
  }
  emulator::set_order(Order::fifo, 1);
  const Array<char> bytes(32);
  const auto take = [&](void (*kernel)(char*)) {
    return [&bytes, kernel] { LAUNCH(kernel, dim3(1), dim3(1), nullptr, bytes.data()); };
  };
  check(error_of(take(take_shared<48 * 1024>)).empty(), "48 KiB of shared memory");
  check_refused(take(take_shared<48 * 1024 + 1>), "more than 48 KiB", "one byte more");
  bool are_refused = true;
  const dim3 good(32), grids[] = {0, {1, 65536}, {1, 1, 65536}, 0x80000000u, 1, 1, 1};
  const dim3 blocks[] = {good, good, good, good, 1025, {1, 1, 65}, {65536, 65536}};
  for (int i = 0; i < 7; ++i) {
    const auto launch = [&] { LAUNCH(without_barrier, grids[i], blocks[i], nullptr, out.data()); };
    are_refused =
        are_refused && error_of(launch).find("invalid configuration") != std::string::npos;
  }
  check(are_refused, "shapes that no device launches");
}

// ---- the runtime ----

__global__ void add(int* values, int n, int amount) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < n) values[i] += amount;
}

void check_recording() {
  const Stream stream = make_stream();
  const Array<int> values(3);
  std::vector<int> host = {1, 2, 3}, result(3);
  int amount = 10;
  const auto recorded = record(stream, [&] {
    copy_to_device(values.bytes(), host.data(), 12, stream);
    LAUNCH(add, dim3(1), dim3(32), stream, values.data(), 3, amount);
    copy_to_host(result.data(), values.bytes(), 12, stream);
  });
  check(result == std::vector<int>(3), "what is recorded does not run");
  amount = 20;
  recorded->replay(stream);
  host = {4, 5, 6};
  const std::vector<int> first = result;
  recorded->replay(stream);
  check(first == std::vector<int>{11, 12, 13} && result == std::vector<int>{14, 15, 16},
        "replays: arguments of the recording, the host's memory of now");
  const auto refused = [&](const std::function<void()>& work, const char* part) {
    check_refused([&] { record(stream, work); }, part, "in a recording");
  };
  refused([&] { synchronise(stream); }, "a wait while work is recorded");
  refused([] { allocate(1); }, "an allocation while work is recorded");
  refused([&] { recorded->replay(stream); }, "a replay while work is recorded");
  std::byte* memory = allocate(8);
  refused([&] { release(memory); }, "a release while work was recorded");
  LAUNCH(add, dim3(1), dim3(32), stream, values.data(), 3, 1);
  check(values.read() == std::vector<int>{15, 16, 17}, "launches run after a recording failed");
  release_stream(stream);
}

void check_device_memory() {
  setenv("PYTHIA_RT_EMULATOR_MEMORY", "1000", 1);
  std::byte* memory = allocate(601);
  check(reinterpret_cast<uintptr_t>(memory) % 256 == 0 &&
            std::count(memory, memory + 601, std::byte{0}) == 601,
        "memory is aligned and zero");
  const DeviceInfo info = device_info();
  check(info.name == "emulator" && info.compute_capability == 0 && info.total_bytes == 1000 &&
            info.free_bytes == 399,
        "what the device says of itself");
  check_refused([] { allocate(400); }, "the CUDA device has no room for 400 bytes", "no room");
  check_refused([] { allocate(SIZE_MAX); }, "no room for", "no room by far");
  char host[16] = {};
  check_refused([&] { copy_to_device(memory + 600, host, 2, nullptr); }, "invalid argument",
                "copy beyond the end");
  check_refused([&] { copy_to_host(host, reinterpret_cast<std::byte*>(host), 2, nullptr); },
                "invalid argument", "copy of the host's own memory");
  release(memory);
  check(device_info().free_bytes == 1000, "memory comes back");
  unsetenv("PYTHIA_RT_EMULATOR_MEMORY");
}

void check_absence() {
  check(why_unavailable().empty(), "there is a device");
  setenv("PYTHIA_RT_EMULATOR_ABSENT", "it was sold", 1);
  check(why_unavailable() == "it was sold", "there is none");
  unsetenv("PYTHIA_RT_EMULATOR_ABSENT");
  const Array<int> values(32);
  const auto launch = [&] { LAUNCH(add, dim3(1), dim3(32), nullptr, values.data(), 32, 1); };
  emulator::fail_after(2);
  check(error_of(launch).empty() && error_of(launch).empty(), "two launches before it disappears");
  check_refused(launch, "the CUDA device failed", "the third launch");
  check_refused([] { synchronise(nullptr); }, "the CUDA device failed", "a wait");
  check_refused([&] { values.read(); }, "the CUDA device failed", "a copy");
  check_refused([] { allocate(1); }, "the CUDA device failed", "an allocation");
  emulator::fail_after(-1);
  check(values.read() == std::vector<int>(32, 2), "it comes back");
}

int run_checks() {
  check_orders();
  check_product<16, 32>("products of 16 x 32 and 32 x 8");
  check_product<8, 16>("products of 8 x 16 and 16 x 8");
  check_memory_of_blocks();
  check_wrong_kernels();
  check_recording();
  check_device_memory();
  check_absence();
  std::printf("%d failed\n", failures);
  return failures == 0 ? 0 : 1;
}

}  // namespace
}  // namespace pythia_rt::cuda

int main() { return pythia_rt::cuda::run_checks(); }
