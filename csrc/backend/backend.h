// What a device must do to run a model: THE list of backend operations. model/ speaks to devices
// only through this interface; weights and activations are pointers that the device understands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/epilogue.h"
#include "base/function_ref.h"
#include "base/softmax_term.h"
#include "formats/kv_formats.h"
#include "formats/matrix.h"

namespace pythia_rt {

// Memory of the device, zeroed when it is made.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual std::byte* data() const = 0;
  // Whatever the system does when these bytes of it are first written is done, and they stay.
  virtual void make_ready(std::byte* /*begin*/, size_t /*bytes*/) {}
};

// Activations: f32 [count][stride], zero beyond `width`. The stride is a multiple of 16 and at
// least the width rounded up to 64.
struct Rows {
  float* data = nullptr;
  int64_t count = 0;
  int64_t width = 0;
  int64_t stride = 0;

  float* row(int64_t index) const { return data + index * stride; }
  Rows first(int64_t n) const { return {data, n, width, stride}; }
};

struct NormParameters {
  bool centres;  // layer norm, which takes the mean off first; else RMS norm
  const float* weight;
  const float* bias;  // null in RMS norm, which has none
  float epsilon;
};

// One matrix product: out = epilogue(in * matrix^T + bias).
struct Product {
  const Matrix* matrix;
  Rows in;
  Rows out;
  Epilogue epilogue;
  // Of the matrix's rows 16 are of gate and 16 of up, in turn: out, half as wide, is
  // epilogue(gate) * up. The epilogue is an activation, the rows are a multiple of 32.
  bool gated = false;
};

// How the columns of a row of queries, keys and values are divided into heads.
struct HeadLayout {
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t rotary_dim;

  // Heads of queries that share one of keys and values.
  int64_t group() const { return n_heads / n_kv_heads; }
};

// How a query scores the keys it sees: query . key * scale + bias.
struct Scoring {
  float scale;
  int64_t window = 0;           // only the last so many positions, its own among them; 0: all
  const float* bias = nullptr;  // [n_heads][bias_positions] by the key's position, memory of the
                                // device; or null
  int64_t bias_positions = 0;   // no row is beyond them
};

// Consecutive rows of a pass that belong to one sequence.
struct SequenceRows {
  int64_t first_row;
  int64_t count;
  int64_t first_position;  // of first_row in its sequence
  KvFormat kv_format;
  KvPages cache;  // a page for each kPagePositions of the positions up to the last row's
};

// What a pass through the layers is about.
struct Batch {
  std::vector<int32_t> tokens;  // [rows]; none where the rows come from elsewhere
  std::vector<SequenceRows> sequences;
  const float* cosines = nullptr;  // [positions][rotary_dim / 2], memory of the device
  const float* sines = nullptr;
  // Batches of the same number differ in nothing but tokens, positions and caches, and their
  // passes call the same operations: a device may record one and replay it. Below 0: this one does
  // not come again.
  int64_t repeats = -1;

  int64_t rows() const {
    return sequences.empty() ? 0 : sequences.back().first_row + sequences.back().count;
  }
};

// One of two norms of the same rows.
struct Norm {
  NormParameters parameters;
  Rows out;
};

class Backend {
 public:
  virtual ~Backend() = default;

  // "cpu" or "cuda".
  virtual const char* device() const = 0;
  // The instruction set, or the device's name for what it runs.
  virtual const char* isa() const = 0;
  virtual int n_threads() const = 0;

  // Calls task(i) once for each i in [0, n), spread over those threads; without any, in this
  // one. Never during an operation.
  virtual void each(int64_t n, FunctionRef<void(int64_t index)> task) = 0;

  // Throws std::invalid_argument for heads that the device's attention has no room for.
  virtual void check_heads(const HeadLayout& heads) const = 0;

  // Throws std::bad_alloc where there is no room.
  virtual std::unique_ptr<DeviceBuffer> allocate(size_t bytes) = 0;

  // Bytes that allocate() and hold() can still take.
  virtual size_t free_bytes() const = 0;

  // The same bytes where the device reads them fastest: `data` itself, or a copy that lives as long
  // as the backend. The host's memory must outlive the backend.
  virtual const void* hold(const void* data, size_t bytes) = 0;

  // Copies `bytes` from the host into memory of the device.
  virtual void upload(const void* data, size_t bytes, std::byte* out) = 0;
  // The reverse.
  virtual void download(const std::byte* data, size_t bytes, void* out) = 0;
  // From one piece of the device's memory to another.
  virtual void copy(const std::byte* data, size_t bytes, std::byte* out) = 0;

  // Calls `work`, whose operations are about `batch`; or repeats what an earlier one called.
  virtual void pass(const Batch& batch, FunctionRef<void()> work) = 0;

  // out[i] = row tokens[i] of the embedding, the batch's tokens, and the row of its position in
  // `positions` [max_positions][out.width]: their sum, or the one of which there is a table.
  virtual void embed(const Matrix* embedding, const float* positions, Rows out) = 0;

  // The two may be the same rows.
  virtual void norm(const NormParameters& parameters, Rows in, Rows out) = 0;
  // Two norms of a kind.
  virtual void norm_pair(Rows in, const Norm& first, const Norm& second) = 0;
  // Each of n_parts equal parts of every row by itself and in place, with its part of the weights.
  // What is beside the rows' columns stays.
  virtual void norm_parts(const NormParameters& parameters, int64_t n_parts, Rows rows) = 0;

  // Quantises the activations where the format asks for it.
  virtual void linear(const Product& product) = 0;

  // Two products in one go: of inputs that both are there, into outputs of their own or, both with
  // Epilogue::add, into the same rows, the first one's first.
  virtual void linear_pair(const Product& first, const Product& second) = 0;

  // What a product does with its result, alone: out = epilogue(in). The two may be the same rows.
  virtual void finish(Epilogue epilogue, Rows in, Rows out) = 0;
  // The same of a gated product; `in` is twice as wide as `out`.
  virtual void finish_gated(Epilogue epilogue, Rows in, Rows out) = 0;

  // Rotates the queries and keys of each of the batch's rows in place, appends keys and values to
  // the caches of their layer, and attends causally: each row to its own sequence, itself included.
  virtual void attention(const HeadLayout& heads, const Scoring& scoring, int64_t layer, Rows qkv,
                         Rows out) = 0;

  // out[i] = in[rows[i]]; `rows` are on the host.
  virtual void gather(Rows in, const int64_t* rows, Rows out) = 0;

  // The softmax over the rows of `head` of every row of `in`, at targets[i]: out[i]. Targets and
  // results are on the host; the logits are not kept.
  virtual void score(const Matrix& head, Rows in, const int32_t* targets, SoftmaxTerm* out) = 0;

  // Copies rows to the host, `width` values each, close together.
  virtual void read(Rows in, float* out) = 0;
  // The same, row i to outs[i].
  virtual void read_rows(Rows in, float* const* outs) = 0;

  // The reverse; what is beyond the width stays.
  virtual void write(const float* in, Rows out) = 0;

  // Calls work(host, begin, end) for stretches [begin, end) of the rows, in several threads where
  // that pays, until each had its turn: `host` are all of them in the host's memory. If `writes`,
  // what stands there afterwards stands in the rows. `work` calls no operation.
  virtual void on_host(Rows rows, bool writes,
                       FunctionRef<void(Rows host, int64_t begin, int64_t end)> work) = 0;
};

}  // namespace pythia_rt
