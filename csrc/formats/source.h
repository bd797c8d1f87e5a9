// A matrix of a checkpoint, and its values as f32.
#pragma once

#include <cstdint>
#include <string>

namespace pythia_rt {

enum class SourceType { f32, f16, bf16 };

SourceType source_type_from_name(const std::string& name);  // throws for other types
int64_t source_type_bytes(SourceType type);

// Values [rows][columns], each times the factors of its column and its row, where there are any:
// first of the column, then of the row.
struct SourceMatrix {
  SourceType type;
  const void* values;
  int64_t rows, columns;
  const float* column_factors = nullptr;  // [columns], or null
  const float* row_factors = nullptr;     // [rows], or null
};

// One row as f32 [columns]; whether all of it is finite.
bool read_row(const SourceMatrix& source, int64_t row, float* out);

}  // namespace pythia_rt
