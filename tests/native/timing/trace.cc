#include "timing/trace.h"

#include <chrono>
#include <utility>

#include "backend/cpu.h"

namespace pythia_rt {

namespace {

// Each thread has its own: what workers do beside the calling thread costs no further time.
thread_local Trace trace;
thread_local const char* running = nullptr;  // the operation

int64_t now() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

// The names are literals, one for each place that measures.
void add(const char* operation, const char* kernel, int64_t nanoseconds) {
  for (TracedRegion& region : trace.regions) {
    if (region.operation == operation && region.kernel == kernel) {
      region.calls += 1;
      region.nanoseconds += nanoseconds;
      return;
    }
  }
  trace.regions.push_back({operation, kernel, 1, nanoseconds});
}

template <typename Work>
void timed(const char* operation, const Work& work) {
  running = operation;
  const int64_t begin = now();
  work();
  const int64_t end = now();
  running = nullptr;
  if (trace.begin == 0) trace.begin = begin;
  trace.end = end;
  add(operation, nullptr, end - begin);
}

template <typename Kernel, typename Arguments>
void timed_kernel(const char* name, Kernel kernel, const Arguments& arguments) {
  if (running == nullptr) return kernel(arguments);  // another thread
  const int64_t begin = now();
  kernel(arguments);
  add(running, name, now() - begin);
}

const KernelTable* plain = nullptr;

template <int kFormat>
void linear(const LinearArguments& arguments) {
  timed_kernel("product", plain->linear[kFormat], arguments);
}

template <int kFormat>
void append(const AppendArguments& arguments) {
  timed_kernel("append", plain->append[kFormat], arguments);
}

template <int kFormat>
void attention(const AttentionArguments& arguments) {
  timed_kernel("attend", plain->attention[kFormat], arguments);
}

template <int... kFormats>
void replace_linear(KernelTable& table, std::integer_sequence<int, kFormats...>) {
  ((table.linear[kFormats] = linear<kFormats>), ...);
}

template <int... kFormats>
void replace_attention(KernelTable& table, std::integer_sequence<int, kFormats...>) {
  ((table.append[kFormats] = append<kFormats>), ...);
  ((table.attention[kFormats] = attention<kFormats>), ...);
}

KernelTable traced(const KernelTable& kernels) {
  plain = &kernels;
  KernelTable table = kernels;
  replace_linear(table, std::make_integer_sequence<int, kFormatCount>());
  replace_attention(table, std::make_integer_sequence<int, kKvFormatCount>());
  table.quantise = [](const QuantiseArguments& arguments) {
    timed_kernel("quantise", plain->quantise, arguments);
  };
  table.layer_norm = [](const NormArguments& arguments) {
    timed_kernel("norm", plain->layer_norm, arguments);
  };
  table.rms_norm = [](const NormArguments& arguments) {
    timed_kernel("norm", plain->rms_norm, arguments);
  };
  table.norm_parts = [](const NormPartsArguments& arguments) {
    timed_kernel("norm", plain->norm_parts, arguments);
  };
  table.finish_gated = [](const FinishArguments& arguments) {
    timed_kernel("gate", plain->finish_gated, arguments);
  };
  table.rotate = [](const RopeArguments& arguments) {
    timed_kernel("rotate", plain->rotate, arguments);
  };
  return table;
}

class TracedBackend : public Backend {
 public:
  TracedBackend(const KernelTable& kernels, int n_threads)
      : kernels_(traced(kernels)), backend_(make_cpu_backend(kernels_, n_threads)) {}

  const char* device() const override { return backend_->device(); }
  const char* isa() const override { return backend_->isa(); }
  int n_threads() const override { return backend_->n_threads(); }
  void each(int64_t n, FunctionRef<void(int64_t index)> task) override { backend_->each(n, task); }
  void check_heads(const HeadLayout& heads) const override { backend_->check_heads(heads); }
  std::unique_ptr<DeviceBuffer> allocate(size_t bytes) override {
    trace.allocated += bytes;
    return backend_->allocate(bytes);
  }
  size_t free_bytes() const override { return backend_->free_bytes(); }
  const void* hold(const void* data, size_t bytes) override { return backend_->hold(data, bytes); }
  void upload(const void* data, size_t bytes, std::byte* out) override {
    backend_->upload(data, bytes, out);
  }
  void download(const std::byte* data, size_t bytes, void* out) override {
    backend_->download(data, bytes, out);
  }
  void copy(const std::byte* data, size_t bytes, std::byte* out) override {
    backend_->copy(data, bytes, out);
  }
  void pass(const Batch& batch, FunctionRef<void()> work) override { backend_->pass(batch, work); }

  void embed(const Matrix* embedding, const float* positions, Rows out) override {
    timed("embed", [&] { backend_->embed(embedding, positions, out); });
  }
  void norm(const NormParameters& parameters, Rows in, Rows out) override {
    timed("norm", [&] { backend_->norm(parameters, in, out); });
  }
  void norm_pair(Rows in, const Norm& first, const Norm& second) override {
    timed("norm_pair", [&] { backend_->norm_pair(in, first, second); });
  }
  void norm_parts(const NormParameters& parameters, int64_t n_parts, Rows rows) override {
    timed("norm_parts", [&] { backend_->norm_parts(parameters, n_parts, rows); });
  }
  void linear(const Product& product) override {
    timed("linear", [&] { backend_->linear(product); });
  }
  void linear_pair(const Product& first, const Product& second) override {
    timed("linear_pair", [&] { backend_->linear_pair(first, second); });
  }
  void finish(Epilogue epilogue, Rows in, Rows out) override {
    timed("finish", [&] { backend_->finish(epilogue, in, out); });
  }
  void finish_gated(Epilogue epilogue, Rows in, Rows out) override {
    timed("finish_gated", [&] { backend_->finish_gated(epilogue, in, out); });
  }
  void attention(const HeadLayout& heads, const Scoring& scoring, int64_t layer, Rows qkv,
                 Rows out) override {
    timed("attention", [&] { backend_->attention(heads, scoring, layer, qkv, out); });
  }
  void gather(Rows in, const int64_t* rows, Rows out) override {
    timed("gather", [&] { backend_->gather(in, rows, out); });
  }
  void score(const Matrix& head, Rows in, const int32_t* targets, SoftmaxTerm* out) override {
    timed("score", [&] { backend_->score(head, in, targets, out); });
  }
  void read(Rows in, float* out) override {
    timed("read", [&] { backend_->read(in, out); });
  }
  void read_rows(Rows in, float* const* outs) override {
    timed("read_rows", [&] { backend_->read_rows(in, outs); });
  }
  void write(const float* in, Rows out) override {
    timed("write", [&] { backend_->write(in, out); });
  }
  void on_host(Rows rows, bool writes,
               FunctionRef<void(Rows host, int64_t begin, int64_t end)> work) override {
    timed("on_host", [&] { backend_->on_host(rows, writes, work); });
  }

 private:
  const KernelTable kernels_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace

Trace take_trace() { return std::exchange(trace, Trace()); }

std::unique_ptr<Backend> make_traced_backend(const KernelTable& kernels, int n_threads) {
  return std::make_unique<TracedBackend>(kernels, n_threads);
}

}  // namespace pythia_rt
