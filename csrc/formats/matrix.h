// A weight matrix in its packed form: what the file stores and the kernels read.
#pragma once

#include <cstdint>

#include "base/rounding.h"

namespace pythia_rt {

constexpr int kRowBlock = 16;     // output rows that lie together, one per lane
constexpr int kColumnGroup = 64;  // columns are padded to whole groups, in every format

enum class Format : int {
#define PYTHIA_RT_FORMAT(type, name) name,
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
};

constexpr int kFormatCount = 0
#define PYTHIA_RT_FORMAT(type, name) +1
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
    ;

// out[rows] = matrix [rows, columns] * in[columns] + bias. The pointers belong to somebody else.
struct Matrix {
  Format format = Format::f32;
  int64_t rows = 0;
  int64_t columns = 0;
  const void* weight = nullptr;    // [row_blocks][...] in the format's layout
  const void* scales = nullptr;    // [row_blocks][groups][16]; quantised formats
  const float* units = nullptr;    // [row_blocks]; formats with 8-bit scales
  const float* bias = nullptr;     // [row_blocks * 16], or null
  const uint8_t* table = nullptr;  // [16] grid of a table format, offset to unsigned

  int64_t row_blocks() const { return divide_up(rows, kRowBlock); }
  int64_t groups() const { return divide_up(columns, kColumnGroup); }
  int64_t padded_columns() const { return groups() * kColumnGroup; }
};

// Where the parts of one block of 16 rows go.
struct PackedBlock {
  void* weight;
  void* scales;
  float* unit;
};

// Scales of one group of 64 columns of a block of 16 rows, for a format below 8 bits.
struct FitArguments {
  const float* values;      // [64 columns][16 rows]
  const float* importance;  // [64 columns], not negative; null: all alike
  const uint8_t* table;     // [16] rising levels, `offset` larger; null: the levels from -offset
  int offset;               // to offset - 1
  float first_factor, last_factor;  // what the search multiplies the natural scale with
  float* scales;                    // [16 rows]
};

// Finds those scales; which function does it depends on the processor.
using FitScales = void (*)(const FitArguments&);

}  // namespace pythia_rt
