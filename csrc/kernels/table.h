// What one ISA offers: a table of functions over plain structs of pointers.
//
// The structs hold no C++ objects with inline functions: the files that use them are compiled with
// an ISA's flags, and an inline function that the linker kept from there would crash elsewhere.
// Rows of activations are f32, zero beyond their width; their stride is a multiple of 16 and at
// least the width rounded up to 64.
#pragma once

#include <cstdint>

#include "base/epilogue.h"
#include "base/summation.h"
#include "formats/kv_head.h"
#include "formats/matrix.h"

namespace pythia_rt {

// Activations of one matrix product, quantised to 8 bits per row and group of 64 columns:
// value = code * scale, |code| <= 127. A matrix unit reads whole tiles of 16 rows: all three
// buffers hold memory for a multiple of 16 rows, whatever stands in the last ones.
struct QuantisedRows {
  int8_t* codes = nullptr;  // [rows][stride]
  int64_t stride = 0;       // an odd multiple of 64: rows must not fall on the same cache sets
  float* scales = nullptr;  // [rows][groups]
  int32_t* sums = nullptr;  // [rows][groups], of the codes
};

struct LinearArguments {
  const Matrix* matrix;
  const float* in;          // [rows][in_stride], float formats
  QuantisedRows quantised;  // the same rows, quantised formats
  int64_t in_stride;
  float* out;  // [rows][out_stride]
  int64_t out_stride;
  int64_t out_block;  // the block of 16 output columns that out begins with
  Epilogue epilogue;
  int64_t row_begin, row_end;      // activations: rows of in and out
  int64_t block_begin, block_end;  // weights: blocks of 16 output columns
  uint8_t* panel;                  // scratch of linear_panel_bytes(), this thread's own
};

struct FinishArguments {
  const float* in;  // [rows][in_stride]; what finish_gated reads is padded to 32 values
  int64_t in_stride;
  float* out;  // [rows][out_stride]; may be `in`
  int64_t out_stride;
  int64_t width;  // of out
  Epilogue epilogue;
  int64_t row_begin, row_end;
};

struct QuantiseArguments {
  const float* in;  // [rows][stride]
  int64_t stride;
  int64_t groups;
  QuantisedRows out;
  int64_t row_begin, row_end;
};

struct NormArguments {
  const float* in;      // [rows][stride]
  const float* weight;  // [width padded to 16]
  const float* bias;    // [width padded to 16], null for rms_norm
  float* out;           // [rows][stride]
  int64_t width, stride;
  float epsilon;
  int64_t row_begin, row_end;
};

// Parts of rows, between others' columns, in place.
struct NormPartsArguments {
  float* rows;          // [rows][stride], the first part's first column
  const float* weight;  // [n_parts][width]
  const float* bias;    // the same of a layer norm, null of an RMS norm
  int64_t n_parts, width, stride;
  float epsilon;
  int64_t row_begin, row_end;
};

struct RopeArguments {
  float* query_key_value;  // [row_stride], one row: q heads | k heads | v heads
  const float* cosines;    // [rotary_dim / 2] at this row's position
  const float* sines;
  int64_t rotary_dim, head_dim;
  int64_t head;  // which of the row's q and k heads to rotate
};

struct AppendArguments {
  const float* key;    // [head_dim], rotated
  const float* value;  // [head_dim]
  KvHead cache;
  int64_t head_dim;
  int64_t position;  // in the cache's memory
};

// The queries of `group` heads that share a head of keys and values. Row r is head r % group of
// them at position first_position + r / group, and attends to positions up to its own.
struct AttentionArguments {
  const float* queries;  // [positions][query_stride], the first head's first column
  int64_t query_stride;
  PagedHead cache;
  int64_t head_dim;
  int64_t group;
  int64_t first_position;
  int64_t row_begin, row_end;
  int64_t window;  // only the last so many positions, its own among them; 0: all
  float scale;
  const float* bias;       // [group][bias_positions], added to the scores of keys there; or null
  int64_t bias_positions;  // no row is beyond them
  float* scratch;          // attention_scratch(head_dim) values, this thread's own
  float* out;              // [positions][out_stride], like the queries
  int64_t out_stride;
  const void* next_keys = nullptr;  // of the cache that the next call will read, if known
};

constexpr int kQueriesTogether = 16;  // rows that one reading of the cache serves

// Of so many rows the scores of a block, and what is mixed so far and of the block. Always inline
// for the objects of several ISAs.
[[gnu::always_inline]] constexpr int64_t attention_scratch(int64_t head_dim) {
  return kQueriesTogether * (kAttentionBlock + 2 * ((head_dim + 15) / 16 * 16));
}

struct KernelTable {
  const char* isa;
  void (*linear[kFormatCount])(const LinearArguments&);
  int64_t (*linear_panel_bytes)(const Matrix&, int64_t rows);  // 0: no panel needed
  void (*finish)(const FinishArguments&);
  void (*finish_gated)(const FinishArguments&);  // `in` has 16 values of gate, 16 of up, and so on
  void (*quantise)(const QuantiseArguments&);
  void (*layer_norm)(const NormArguments&);
  void (*rms_norm)(const NormArguments&);
  void (*norm_parts)(const NormPartsArguments&);
  void (*rotate)(const RopeArguments&);
  void (*append[kKvFormatCount])(const AppendArguments&);        // by KvFormat
  void (*attention[kKvFormatCount])(const AttentionArguments&);  // by KvFormat
  FitScales fit_scales;
  void (*softmax_run)(const float* logits, int64_t n, float* largest, float* sum);
  void (*softmax_merge)(const float* run_largest, const float* run_sums, int64_t n_runs,
                        float* largest, float* sum);
};

}  // namespace pythia_rt
