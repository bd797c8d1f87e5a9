#include "formats/formats.h"

#include <cmath>
#include <cstring>
#include <type_traits>

#include "base/error.h"
#include "base/thread_pool.h"
#include "formats/floats.h"
#include "formats/q4.h"
#include "formats/q8.h"

namespace pythia_rt {

namespace {

// Calls function(FormatType{}) for the format's type: the one switch over formats.
template <typename Function>
auto with_format(Format format, Function function) {
  switch (format) {
#define PYTHIA_RT_FORMAT(type, name) \
  case Format::name:                 \
    return function(type{});
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
  }
  throw_invalid("there is no weight format number ", static_cast<int>(format));
}

float source_value(SourceType type, const void* source, int64_t index) {
  if (type == SourceType::f32) return static_cast<const float*>(source)[index];
  const uint16_t bits = static_cast<const uint16_t*>(source)[index];
  return type == SourceType::f16 ? float_from_half(bits) : float_from_bfloat(bits);
}

// Copies one row of the source as f32; throws for NaN and infinity.
void read_row(SourceType type, const void* source, int64_t row, int64_t columns, float* out) {
  bool finite = true;
  for (int64_t column = 0; column < columns; ++column) {
    out[column] = source_value(type, source, row * columns + column);
    finite &= std::fabs(out[column]) <= 3.402823466e38f;
  }
  if (finite) return;
  for (int64_t column = 0; column < columns; ++column) {
    if (!std::isfinite(out[column])) {
      throw_invalid("the weights hold a value that is not finite at row ", row, ", column ",
                    column);
    }
  }
}

// An infinite half among the stored values means that a finite weight did not fit.
void check_halves(const uint16_t* halves, int64_t count, uint16_t infinity, int64_t first_row) {
  for (int64_t i = 0; i < count; ++i) {
    if ((halves[i] & 0x7fffu) == infinity) {
      throw_invalid("the weights hold a value too large for a 16-bit float near row ",
                    first_row + i % kRowBlock);
    }
  }
}

}  // namespace

const char* format_name(Format format) {
  return with_format(format, [](auto type) { return decltype(type)::kName; });
}

Format format_from_name(const std::string& name) {
  std::string names;
  for (int i = 0; i < kFormatCount; ++i) {
    const auto format = static_cast<Format>(i);
    if (name == format_name(format)) return format;
    names += std::string(i == 0 ? "" : ", ") + format_name(format);
  }
  throw_invalid("there is no weight format '", name, "'; there are ", names);
}

bool is_quantised(Format format) {
  return with_format(format, [](auto type) { return decltype(type)::kQuantised; });
}

double bits_per_weight(Format format) {
  return with_format(format, [](auto type) {
    using Type = decltype(type);
    const double scale_bits = Type::kQuantised ? 16.0 * kRowBlock : 0.0;
    return (8.0 * Type::kGroupBytes + scale_bits) / (kRowBlock * kColumnGroup);
  });
}

const uint8_t* format_table(Format format) { return format == Format::q4 ? Q4::kTable : nullptr; }

SourceType source_type_from_name(const std::string& name) {
  if (name == "F32") return SourceType::f32;
  if (name == "F16") return SourceType::f16;
  if (name == "BF16") return SourceType::bf16;
  throw_invalid("weights of type '", name, "' cannot be packed; there are F32, F16, BF16");
}

int64_t source_type_bytes(SourceType type) { return type == SourceType::f32 ? 4 : 2; }

std::vector<PackedPart> packed_layout(Format format, int64_t rows, int64_t columns) {
  constexpr int64_t kMost = int64_t{1} << 28;  // keeps every product below in 64 bits
  if (rows < 1 || columns < 1 || rows > kMost || columns > kMost) {
    throw_invalid("a matrix of ", rows, " x ", columns, " cannot be packed");
  }
  Matrix shape;
  shape.rows = rows;
  shape.columns = columns;
  const int64_t blocks = shape.row_blocks();
  return with_format(format, [&](auto type) {
    using Type = decltype(type);
    const auto bytes = static_cast<size_t>(blocks * shape.groups() * Type::kGroupBytes);
    std::vector<PackedPart> parts;
    if constexpr (Type::kQuantised) {
      parts.push_back({"weight",
                       Type::kType,
                       {blocks, shape.padded_columns() / Type::kTileColumns, 64},
                       bytes});
      parts.push_back({"scales",
                       "F16",
                       {blocks, shape.groups(), kRowBlock},
                       static_cast<size_t>(blocks * shape.groups() * kRowBlock * 2)});
    } else {
      parts.push_back({"weight", Type::kType, {blocks, shape.padded_columns(), kRowBlock}, bytes});
    }
    return parts;
  });
}

void pack(Format format, SourceType source_type, const void* source, int64_t rows, int64_t columns,
          const std::vector<void*>& parts, FitScales fit_scales, ThreadPool& pool) {
  Matrix shape;
  shape.rows = rows;
  shape.columns = columns;
  const int64_t groups = shape.groups();
  const int64_t stride = shape.padded_columns();
  with_format(format, [&](auto type) {
    using Type = decltype(type);
    pool.run(shape.row_blocks(), [&](int64_t block, int) {
      std::vector<float> values(static_cast<size_t>(kRowBlock * stride), 0.0f);
      for (int64_t row = 0; row < kRowBlock && block * kRowBlock + row < rows; ++row) {
        read_row(source_type, source, block * kRowBlock + row, columns,
                 values.data() + row * stride);
      }
      auto* weight = static_cast<uint8_t*>(parts[0]) + block * groups * Type::kGroupBytes;
      uint16_t* scales = nullptr;
      if constexpr (Type::kQuantised) {
        scales = static_cast<uint16_t*>(parts[1]) + block * groups * kRowBlock;
      }
      Type::pack_row_block(values.data(), stride, groups, weight, scales, fit_scales);
      const int64_t first_row = block * kRowBlock;
      if constexpr (Type::kQuantised) {
        check_halves(scales, groups * kRowBlock, 0x7c00, first_row);
      } else if constexpr (!std::is_same_v<Type, F32>) {
        const uint16_t infinity = std::is_same_v<Type, F16> ? 0x7c00 : 0x7f80;
        check_halves(reinterpret_cast<uint16_t*>(weight), stride * kRowBlock, infinity, first_row);
      }
    });
  });
}

void unpack_row(const Matrix& matrix, int64_t row, float* out) {
  with_format(matrix.format, [&](auto type) { decltype(type)::unpack_row(matrix, row, out); });
}

}  // namespace pythia_rt
