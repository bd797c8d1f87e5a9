// Everything that can be asked of a format by its tag: names, sizes, packing, unpacking.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/matrix.h"
#include "formats/source.h"

namespace pythia_rt {

class ThreadPool;

// One stored tensor of a packed matrix.
struct PackedPart {
  const char* name;  // "weight", "scales" or "units"
  const char* type;  // safetensors type
  std::vector<int64_t> shape;
  size_t bytes;
};

const char* format_name(Format format);
Format format_from_name(const std::string& name);  // throws, listing the names there are
bool is_quantised(Format format);
double bits_per_weight(Format format);       // scales included, padding not
const uint8_t* format_table(Format format);  // the grid of a table format, else null

// The tensors of a matrix of this shape, in file order. Throws for shapes of no sense.
std::vector<PackedPart> packed_layout(Format format, int64_t rows, int64_t columns);

// Makes `matrix` point to the parts of its layout.
void bind_parts(const std::vector<PackedPart>& layout, const std::vector<const void*>& parts,
                Matrix& matrix);
// The reverse: the parts of a matrix, in file order.
std::vector<const void*> parts_of(const Matrix& matrix);

// Packs a source into the parts of packed_layout. Throws std::invalid_argument that names row and
// column of a value that is not finite, or too large for the format.
void pack(Format format, const SourceMatrix& source, const std::vector<void*>& parts,
          FitScales fit_scales, ThreadPool& pool);

// The steps of pack, for whoever chooses codes with more care; quantised formats only, else they
// throw. Scales of f32 values [rows][columns]: `scales` [rows][groups], rounded to what the format
// stores, and `units` [row_blocks]. `importance` [columns] or null weighs the squared errors.
void fit_scales(Format format, const float* values, int64_t rows, int64_t columns,
                const float* importance, FitScales kernel, ThreadPool& pool, float* scales,
                float* units);
// A scale as it is stored in a block with this unit.
float round_scale(Format format, float scale, float unit);
// The nearest code of each value, given those scales: `codes` [rows][columns].
void encode(Format format, const float* values, const float* scales, int64_t rows, int64_t columns,
            uint8_t* codes);
// What a code stands for, times its scale.
std::vector<int> levels(Format format);
// Codes [rows][columns], scales [rows][groups] and units [row_blocks] into the parts of
// packed_layout. Throws for a code that the format does not have.
void pack_codes(Format format, const uint8_t* codes, const float* scales, const float* units,
                int64_t rows, int64_t columns, const std::vector<void*>& parts);

// One row of the matrix as f32 [columns].
void unpack_row(const Matrix& matrix, int64_t row, float* out);

}  // namespace pythia_rt
