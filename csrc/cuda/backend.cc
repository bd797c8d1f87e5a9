// The CUDA backend: which kernels an operation queues, and where their scratch lies.
#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "base/error.h"
#include "base/rounding.h"
#include "cuda/cuda.h"
#include "cuda/kernels/launch.h"
#include "cuda/memory.h"
#include "cuda/pass.h"
#include "cuda/runtime.h"
#include "formats/formats.h"

namespace pythia_rt {

namespace cuda {

namespace {

// Up to so many rows a sequence on average, attention cuts the context instead of the rows.
constexpr int64_t kFewRows = 8;

// Rows whose logits a score computes at a time.
constexpr int64_t kScoredRows = 32;

class Buffer : public DeviceBuffer {
 public:
  explicit Buffer(size_t bytes) : memory_(bytes) {}
  std::byte* data() const override { return memory_.data(); }

 private:
  DeviceMemory memory_;
};

class OwnedStream {
 public:
  OwnedStream() : stream_(make_stream()) {}
  OwnedStream(const OwnedStream&) = delete;
  ~OwnedStream() { release_stream(stream_); }
  operator Stream() const { return stream_; }  // NOLINT: implicit on purpose

 private:
  Stream stream_;
};

// Turns the runtime's report into advice.
template <typename Function>
auto with_room(const Function& function) {
  constexpr size_t kMegabyte = 1000 * 1000;
  try {
    return function();
  } catch (const OutOfMemory& error) {
    throw NoRoom(text("the CUDA device has no room for another ", error.bytes / kMegabyte + 1,
                      " MB, ", device_info().free_bytes / kMegabyte,
                      " MB are free: take fewer layers with gpu_layers, a smaller format, a "
                      "shorter context or kv_format='q8'"));
  }
}

}  // namespace

class CudaBackend : public Backend {
 public:
  CudaBackend() {
    const DeviceInfo info = device_info();
    isa_ = info.compute_capability == 0 ? info.name : text("sm_", info.compute_capability);
  }
  ~CudaBackend() override {
    // What is queued may still use what is about to be released.
    try {
      synchronise(stream_);
    } catch (const std::runtime_error&) {
      // The device failed; whoever used it was told.
    }
  }

  const char* device() const override { return "cuda"; }
  const char* isa() const override { return isa_.c_str(); }
  int n_threads() const override { return 0; }
  void each(int64_t n, FunctionRef<void(int64_t index)> task) override {
    for (int64_t i = 0; i < n; ++i) task(i);
  }

  void check_heads(const HeadLayout& heads) const override {
    if (heads.head_dim > kMostHeadDim) {
      throw_invalid("on a CUDA device attention heads have at most ", kMostHeadDim,
                    " dimensions, not ", heads.head_dim, ": take device='cpu'");
    }
  }

  std::unique_ptr<DeviceBuffer> allocate(size_t bytes) override {
    return with_room([&] { return std::make_unique<Buffer>(bytes); });
  }

  size_t free_bytes() const override { return device_info().free_bytes; }

  // Tied weights are asked for twice.
  const void* hold(const void* data, size_t bytes) override {
    const auto found = held_.find(data);
    if (found != held_.end()) return found->second.data();
    DeviceMemory memory = with_room([&] { return DeviceMemory(bytes); });
    copy_to_device(memory.data(), data, bytes, stream_);
    synchronise(stream_);
    return held_.emplace(data, std::move(memory)).first->second.data();
  }

  void upload(const void* data, size_t bytes, std::byte* out) override {
    copy_to_device(out, data, bytes, stream_);
    synchronise(stream_);
  }
  void download(const std::byte* data, size_t bytes, void* out) override {
    copy_to_host(out, data, bytes, stream_);
    wait();
  }
  void copy(const std::byte* data, size_t bytes, std::byte* out) override {
    copy_on_device(out, data, bytes, stream_);
  }

  // A pass that comes again is run as it is the first time, so that all its scratch is there;
  // recorded the second time, and from then on replayed.
  void pass(const Batch& batch, FunctionRef<void()> work) override {
    if (tables_in_use_) wait();
    if (tables_.load(batch, stream_)) forget_recordings();
    tables_in_use_ = true;
    batch_rows_ = batch.rows();
    n_sequences_ = static_cast<int64_t>(batch.sequences.size());
    if (batch.repeats < 0) {
      work();
    } else {
      run_again(batch, work);
    }
    check_launches();
  }

  void embed(const Matrix* embedding, const float* positions, Rows out) override {
    cuda::embed(stream_, embedding, positions, tables_.places(), out);
  }

  void norm(const NormParameters& parameters, Rows in, Rows out) override {
    const Norm one{parameters, out};
    cuda::norm(stream_, in, &one, 1);
  }

  void norm_pair(Rows in, const Norm& first, const Norm& second) override {
    const Norm both[] = {first, second};
    cuda::norm(stream_, in, both, 2);
  }

  void norm_parts(const NormParameters& parameters, int64_t n_parts, Rows rows) override {
    cuda::norm_parts(stream_, parameters, n_parts, rows);
  }

  void linear(const Product& product) override { multiply(&product, 1); }

  void linear_pair(const Product& first, const Product& second) override {
    const Product products[] = {first, second};
    multiply(products, 2);
  }

  void finish(Epilogue epilogue, Rows in, Rows out) override {
    cuda::finish(stream_, epilogue, in, out);
  }

  void finish_gated(Epilogue epilogue, Rows in, Rows out) override {
    cuda::finish_gated(stream_, epilogue, in, out);
  }

  void attention(const HeadLayout& heads, const Scoring& scoring, int64_t layer, Rows qkv,
                 Rows out) override {
    const Places& places = tables_.places();
    for (const KvFormat format : tables_.formats()) {
      rotate_and_append(stream_, heads, layer, qkv, format, places);
    }
    if (batch_rows_ > kFewRows * n_sequences_) {
      for (const KvFormat format : tables_.formats()) {
        attention_by_tiles(stream_, heads, scoring, layer, qkv, format, places, out);
      }
      return;
    }
    const int64_t floats = attention_scratch(heads, batch_rows_, places.most_positions);
    float* scratch = get(attention_, floats);
    for (const KvFormat format : tables_.formats()) {
      attention_by_rows(stream_, heads, scoring, layer, qkv, format, places, scratch, out);
    }
  }

  void gather(Rows in, const int64_t* rows, Rows out) override {
    auto* list = get<int64_t>(list_, out.count);
    upload(rows, static_cast<size_t>(out.count) * sizeof(int64_t),
           reinterpret_cast<std::byte*>(list));
    cuda::gather(stream_, in, list, out);
  }

  void score(const Matrix& head, Rows in, const int32_t* targets, SoftmaxTerm* out) override {
    Rows logits{nullptr, std::min(kScoredRows, in.count), head.rows,
                round_up(head.rows, kColumnGroup)};
    logits.data = get(logits_, logits.count * logits.stride);
    const int64_t n_runs = divide_up(head.rows, kSoftmaxRun);
    float* runs = get(softmax_runs_, 2 * logits.count * n_runs);
    auto* device_targets = get<int32_t>(list_, in.count);
    auto* terms = get<SoftmaxTerm>(terms_, in.count);
    upload(targets, static_cast<size_t>(in.count) * sizeof(int32_t),
           reinterpret_cast<std::byte*>(device_targets));
    for (int64_t begin = 0; begin < in.count; begin += kScoredRows) {
      const int64_t count = std::min(kScoredRows, in.count - begin);
      const Rows part{in.row(begin), count, in.width, in.stride};
      linear({&head, part, logits.first(count), Epilogue::store});
      softmax(stream_, logits.first(count), device_targets + begin, runs, terms + begin);
    }
    check_launches();
    copy_to_host(out, reinterpret_cast<const std::byte*>(terms),
                 static_cast<size_t>(in.count) * sizeof(SoftmaxTerm), stream_);
    wait();
  }

  void read(Rows in, float* out) override {
    const float* rows = read_strides(in);
    for (int64_t i = 0; i < in.count; ++i) copy_row(rows, in, i, out + i * in.width);
  }

  void read_rows(Rows in, float* const* outs) override {
    const float* rows = read_strides(in);
    for (int64_t i = 0; i < in.count; ++i) copy_row(rows, in, i, outs[i]);
  }

  void write(const float* in, Rows out) override {
    float* rows = read_strides(out);
    for (int64_t i = 0; i < out.count; ++i) {
      std::copy_n(in + i * out.width, out.width, rows + i * out.stride);
    }
    upload(rows, bytes_of(out), reinterpret_cast<std::byte*>(out.data));
  }

  void on_host(Rows rows, bool writes,
               FunctionRef<void(Rows host, int64_t begin, int64_t end)> work) override {
    if (rows.count == 0) return;
    float* copy = read_strides(rows);
    work({copy, rows.count, rows.width, rows.stride}, 0, rows.count);
    if (writes) upload(copy, bytes_of(rows), reinterpret_cast<std::byte*>(rows.data));
  }

 private:
  // Of one input of a product.
  struct QuantisedInput {
    Growing<DeviceMemory> codes;
    Growing<DeviceMemory> scales;
  };

  // What a recording was made for: Batch::repeats, the grid of attention, the caches' formats, the
  // angles' address.
  using Key = std::tuple<int64_t, int64_t, std::vector<KvFormat>, const float*>;

  // Scratch of the device; recordings that know its old address are dropped.
  template <typename T = float>
  T* get(Growing<DeviceMemory>& memory, int64_t count) {
    bool moved = false;
    T* data = with_room([&] { return memory.get<T>(count, moved); });
    if (moved) forget_recordings();
    return data;
  }

  void forget_recordings() {
    seen_.clear();
    recordings_.clear();
  }

  void run_again(const Batch& batch, FunctionRef<void()> work) {
    const Places& places = tables_.places();
    const Key key{batch.repeats, places.most_positions, tables_.formats(), places.cosines};
    auto found = recordings_.find(key);
    if (found == recordings_.end()) {
      if (seen_.count(key) == 0) {
        work();
        seen_.insert(key);  // after the work, which forgets keys when it takes scratch
        return;
      }
      found = recordings_.emplace(key, record(stream_, [&] { work(); })).first;
    }
    found->second->replay(stream_);
  }

  void multiply(const Product* products, int n) {
    QuantiseTask quantised[2];
    LinearTask tasks[2];
    int n_quantised = 0;
    for (int i = 0; i < n; ++i) {
      const Product& product = products[i];
      tasks[i] = {*product.matrix, product.in, {}, product.out, product.epilogue};
      if (product.gated) {
        tasks[i].out = room_for_halves(halves_[i], product);
        tasks[i].epilogue = Epilogue::store;
      }
      if (!is_quantised(product.matrix->format)) continue;
      if (n_quantised == 1 && quantised[0].in.data == product.in.data) {
        tasks[i].quantised = quantised[0].out;  // inputs that are the same rows, once
        continue;
      }
      tasks[i].quantised = room_for_codes(inputs_[i], product.in);
      quantised[n_quantised++] = {product.in, tasks[i].quantised};
    }
    if (n_quantised > 0) quantise(stream_, quantised, n_quantised);
    cuda::linear(stream_, tasks, n);
    for (int i = 0; i < n; ++i) {
      if (products[i].gated) finish_gated(products[i].epilogue, tasks[i].out, products[i].out);
    }
  }

  // Of a gated product's gate and up.
  Rows room_for_halves(Growing<DeviceMemory>& memory, const Product& product) {
    const int64_t count = product.in.count, width = product.matrix->rows;
    const int64_t stride = round_up(width, kColumnGroup);
    return {get(memory, count * stride), count, width, stride};
  }

  QuantisedRows room_for_codes(QuantisedInput& input, Rows in) {
    const int64_t stride = round_up(in.width, kColumnGroup);
    return {get<int8_t>(input.codes, in.count * stride), stride,
            get(input.scales, in.count * (stride / kColumnGroup))};
  }

  // Of rows with what lies between them.
  static size_t bytes_of(Rows rows) {
    return static_cast<size_t>((rows.count - 1) * rows.stride + rows.width) * sizeof(float);
  }

  // Rows with what lies between them, in memory of the host.
  float* read_strides(Rows in) {
    bool moved = false;
    auto* rows = staging_.get<float>(in.count * in.stride, moved);
    copy_to_host(rows, reinterpret_cast<const std::byte*>(in.data), bytes_of(in), stream_);
    wait();
    return rows;
  }

  static void copy_row(const float* rows, Rows in, int64_t i, float* out) {
    std::copy_n(rows + i * in.stride, in.width, out);
  }

  void wait() {
    synchronise(stream_);
    tables_in_use_ = false;
  }

  OwnedStream stream_;
  std::string isa_;
  std::map<const void*, DeviceMemory> held_;  // by the host's address
  PassTables tables_;
  bool tables_in_use_ = false;  // their copy may not be over
  int64_t batch_rows_ = 0;
  int64_t n_sequences_ = 0;
  QuantisedInput inputs_[2];  // the second one of a pair
  Growing<DeviceMemory> halves_[2];
  Growing<DeviceMemory> attention_, logits_, softmax_runs_, list_, terms_;
  Growing<HostMemory> staging_;
  std::set<Key> seen_;
  std::map<Key, std::unique_ptr<Recording>> recordings_;
};

}  // namespace cuda

std::string cuda_unavailable() { return cuda::why_unavailable(); }

std::string cuda_device_name() {
  const std::string reason = cuda_unavailable();
  if (!reason.empty()) throw_failed(reason);
  return cuda::device_info().name;
}

std::unique_ptr<Backend> make_cuda_backend() {
  const std::string reason = cuda_unavailable();
  if (!reason.empty()) throw_failed(reason);
  return std::make_unique<cuda::CudaBackend>();
}

}  // namespace pythia_rt
