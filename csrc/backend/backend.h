// What a device must do to run a model: THE list of backend operations. model/ speaks to devices
// only through this interface; weights and activations are pointers that the device understands.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "base/epilogue.h"
#include "formats/kv_formats.h"
#include "formats/matrix.h"

namespace pythia_rt {

// Memory of the device, zeroed when it is made.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual std::byte* data() const = 0;
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
  const float* weight;
  const float* bias;
  float epsilon;
};

// One matrix product: out = epilogue(in * matrix^T + bias).
struct Product {
  const Matrix* matrix;
  Rows in;
  Rows out;
  Epilogue epilogue;
};

// What a softmax makes of one of its logits: e^(logit - largest) / sum, where the sum is that of
// e^(logit - largest) over all logits.
struct SoftmaxTerm {
  float logit;
  float largest;
  float sum;
};

// How the columns of a row of queries, keys and values are divided into heads.
struct HeadLayout {
  int64_t n_heads;
  int64_t n_kv_heads;
  int64_t head_dim;
  int64_t rotary_dim;
};

// Consecutive rows that belong to one sequence, in one layer.
struct SequenceRows {
  int64_t first_row;
  int64_t count;
  int64_t first_position;  // of first_row in its sequence
  const float* cosines;    // [count][rotary_dim / 2], from first_position on
  const float* sines;
  KvFormat kv_format;
  KvLayer cache;
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual const char* isa() const = 0;
  virtual int n_threads() const = 0;

  virtual std::unique_ptr<DeviceBuffer> allocate(size_t bytes) = 0;

  // out[i] = row tokens[i] of the embedding.
  virtual void embed(const Matrix& embedding, const int32_t* tokens, Rows out) = 0;

  virtual void layer_norm(const NormParameters& norm, Rows in, Rows out) = 0;

  // Quantises the activations where the format asks for it.
  virtual void linear(const Product& product) = 0;

  // Two products in one go: of inputs that both are there, into outputs of their own or, both with
  // Epilogue::add, into the same rows, the first one's first.
  virtual void linear_pair(const Product& first, const Product& second) = 0;

  // Rotates the queries and keys of each row in place and appends keys and values to the caches.
  virtual void rotate_and_append(const HeadLayout& heads, Rows qkv,
                                 const std::vector<SequenceRows>& sequences) = 0;

  // Causal attention of every row over its own sequence.
  virtual void attention(const HeadLayout& heads, Rows qkv,
                         const std::vector<SequenceRows>& sequences, Rows out) = 0;

  // out[i] = in[rows[i]]
  virtual void gather(Rows in, const int64_t* rows, Rows out) = 0;

  // The softmax of logits [n] on the host, at `index`.
  virtual SoftmaxTerm softmax(const float* logits, int64_t n, int64_t index) = 0;

  // The softmax over the rows of `head` of every row of `in`, at targets[i]: out[i], on the host,
  // the same as of logits. The logits are not kept.
  virtual void score(const Matrix& head, Rows in, const int32_t* targets, SoftmaxTerm* out) = 0;

  // Copies rows to the host, `width` values each, close together.
  virtual void read(Rows in, float* out) = 0;

  // The reverse.
  virtual void write(const float* in, Rows out) = 0;
};

}  // namespace pythia_rt
