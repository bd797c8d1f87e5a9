// Everything that can be asked of a format by its tag: names, sizes, packing, unpacking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/matrix.h"

namespace pythia_rt {

class ThreadPool;

// One stored tensor of a packed matrix.
struct PackedPart {
  const char* name;  // "weight" or "scales"
  const char* type;  // safetensors type
  std::vector<int64_t> shape;
  size_t bytes;
};

enum class SourceType { f32, f16, bf16 };

const char* format_name(Format format);
Format format_from_name(const std::string& name);  // throws, listing the names there are
bool is_quantised(Format format);
double bits_per_weight(Format format);       // scales included, padding not
const uint8_t* format_table(Format format);  // the grid of a 4-bit format, else null
SourceType source_type_from_name(const std::string& name);
int64_t source_type_bytes(SourceType type);

// The tensors of a matrix of this shape, in file order. Throws for shapes of no sense.
std::vector<PackedPart> packed_layout(Format format, int64_t rows, int64_t columns);

// Packs source [rows][columns] into the parts of packed_layout. Throws std::invalid_argument that
// names row and column of a value that is not finite, or too large for the format.
void pack(Format format, SourceType type, const void* source, int64_t rows, int64_t columns,
          const std::vector<void*>& parts, FitScales fit_scales, ThreadPool& pool);

// One row of the matrix as f32 [columns].
void unpack_row(const Matrix& matrix, int64_t row, float* out);

}  // namespace pythia_rt
