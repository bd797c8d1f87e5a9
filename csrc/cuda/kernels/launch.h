// What the CUDA backend may queue, one function a kernel. Pointers are the device's, unless said
// otherwise; every result has the same bits as the CPU backend's.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "base/summation.h"
#include "cuda/runtime.h"

namespace pythia_rt::cuda {

// Activations of 8 bits per row and group of 64 columns: value = code * scale, |code| <= 127.
struct QuantisedRows {
  int8_t* codes = nullptr;  // [rows][stride], stride a multiple of 64
  int64_t stride = 0;
  float* scales = nullptr;  // [rows][stride / 64]
};

// Whose a row is.
struct RowPlace {
  int32_t sequence;
  int32_t position;
};

// A sequence's cache: the table of its pages is in memory of the device too.
struct SequencePlace {
  KvPages cache;
  KvFormat format;
};

// Consecutive rows of one sequence that attend together.
constexpr int kQueriesPerTile = 16;
struct QueryTile {
  int32_t sequence;
  int32_t first_row;
  int32_t count;  // 1 to kQueriesPerTile
  int32_t first_position;
};

// What the rows of a pass are.
struct Places {
  const int32_t* tokens;           // [rows]
  const RowPlace* rows;            // [rows]
  const SequencePlace* sequences;  // [sequences]
  const QueryTile* tiles;          // [n_tiles], of all rows
  int64_t n_tiles;
  int64_t most_positions;  // no row sees more positions
  const float* cosines;    // [positions][rotary_dim / 2]
  const float* sines;
};

struct QuantiseTask {
  Rows in;
  QuantisedRows out;
};

struct LinearTask {
  Matrix matrix;
  Rows in;
  QuantisedRows quantised;  // the same rows, where the format is a quantised one
  Rows out;
  Epilogue epilogue;
};

// Rows of the embedding, of positions, or the sums of both.
void embed(Stream stream, const Matrix* embedding, const float* positions, const Places& places,
           Rows out);

// out[i] = in[rows[i]], whole strides.
void gather(Stream stream, Rows in, const int64_t* rows, Rows out);

// The same rows through one norm, or two of a kind in one launch.
void norm(Stream stream, Rows in, const Norm* norms, int n_norms);

// Each of n_parts equal parts of every row by itself, in place.
void norm_parts(Stream stream, const NormParameters& parameters, int64_t n_parts, Rows rows);

// One or two, in one launch. The inputs have equally many rows.
void quantise(Stream stream, const QuantiseTask* tasks, int n_tasks);

// One or two products, of equally many rows, in one launch where both are of quantised formats or
// both of float formats; with the same rows as their outputs, the first one's come first.
void linear(Stream stream, const LinearTask* tasks, int n_tasks);

// out = epilogue(in), a product's.
void finish(Stream stream, Epilogue epilogue, Rows in, Rows out);

// out = epilogue(gate) * up: `in` has 16 columns of gate, 16 of up, and so on.
void finish_gated(Stream stream, Epilogue epilogue, Rows in, Rows out);

// For the rows whose cache has this format.
void rotate_and_append(Stream stream, const HeadLayout& heads, int64_t layer, Rows qkv,
                       KvFormat format, const Places& places);

// Dimensions of a head that fit into attention's shared memory.
constexpr int kMostHeadDim = 256;

// Floats of scratch that attention_by_rows needs.
int64_t attention_scratch(const HeadLayout& heads, int64_t rows, int64_t most_positions);

// Attention for few rows: each block of positions by itself, then all of a row's blocks in order.
void attention_by_rows(Stream stream, const HeadLayout& heads, const Scoring& scoring,
                       int64_t layer, Rows qkv, KvFormat format, const Places& places,
                       float* scratch, Rows out);

// Attention for many rows: tiles of queries walk through the positions.
void attention_by_tiles(Stream stream, const HeadLayout& heads, const Scoring& scoring,
                        int64_t layer, Rows qkv, KvFormat format, const Places& places, Rows out);

// Of each row of logits: the softmax at targets[i]. `scratch` has two floats for each row and run
// of kSoftmaxRun logits.
void softmax(Stream stream, Rows logits, const int32_t* targets, float* scratch, SoftmaxTerm* out);

}  // namespace pythia_rt::cuda
