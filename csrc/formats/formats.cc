#include "formats/formats.h"

#include <cmath>
#include <type_traits>

#include "base/error.h"
#include "base/thread_pool.h"
#include "formats/types.h"

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

// Copies one row of the source as f32; throws for NaN and infinity.
void read_finite_row(const SourceMatrix& source, int64_t row, float* out) {
  if (read_row(source, row, out)) return;
  for (int64_t column = 0; column < source.columns; ++column) {
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
    double bits = 8.0 * Type::kGroupBytes / (kRowBlock * kColumnGroup);
    if constexpr (Type::kQuantised) bits += (Type::kSquareScales ? 8.0 : 16.0) / kColumnGroup;
    return bits;
  });
}

const uint8_t* format_table(Format format) {
  return with_format(format, [](auto type) -> const uint8_t* { return decltype(type)::kTable; });
}

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
      const int64_t scales = blocks * shape.groups() * kRowBlock;
      const bool square = Type::kSquareScales;
      parts.push_back(
          {"weight", Type::kType, {blocks, shape.groups(), Type::kGroupBytes / 64, 64}, bytes});
      parts.push_back({"scales",
                       square ? "I8" : "F16",
                       {blocks, shape.groups(), kRowBlock},
                       static_cast<size_t>(square ? scales : 2 * scales)});
      if (square) {
        parts.push_back({"units", "F32", {blocks}, static_cast<size_t>(blocks) * sizeof(float)});
      }
    } else {
      parts.push_back({"weight", Type::kType, {blocks, shape.padded_columns(), kRowBlock}, bytes});
    }
    return parts;
  });
}

void bind_parts(const std::vector<PackedPart>& layout, const std::vector<const void*>& parts,
                Matrix& matrix) {
  for (size_t i = 0; i < layout.size(); ++i) {
    const std::string name = layout[i].name;
    if (name == "scales") {
      matrix.scales = parts[i];
    } else if (name == "units") {
      matrix.units = static_cast<const float*>(parts[i]);
    } else {
      matrix.weight = parts[i];
    }
  }
}

std::vector<const void*> parts_of(const Matrix& matrix) {
  std::vector<const void*> parts = {matrix.weight};
  if (matrix.scales != nullptr) parts.push_back(matrix.scales);
  if (matrix.units != nullptr) parts.push_back(matrix.units);
  return parts;
}

namespace {

// One block of 16 rows of a matrix, as f32 [16][stride], zero-padded.
class RowBlock {
 public:
  RowBlock(const SourceMatrix& source, int64_t stride, int64_t block)
      : stride_(stride), values_(static_cast<size_t>(kRowBlock * stride_), 0.0f) {
    for (int64_t row = 0; row < kRowBlock && block * kRowBlock + row < source.rows; ++row) {
      read_finite_row(source, block * kRowBlock + row, values_.data() + row * stride_);
    }
  }
  const float* data() const { return values_.data(); }
  int64_t stride() const { return stride_; }

 private:
  int64_t stride_;
  std::vector<float> values_;
};

template <typename Type>
PackedBlock packed_block(const std::vector<void*>& parts, int64_t groups, int64_t block) {
  PackedBlock out{static_cast<uint8_t*>(parts[0]) + block * groups * Type::kGroupBytes, nullptr,
                  nullptr};
  if constexpr (Type::kQuantised) {
    const int64_t scale_bytes = Type::kSquareScales ? 1 : 2;
    out.scales = static_cast<uint8_t*>(parts[1]) + block * groups * kRowBlock * scale_bytes;
    if (Type::kSquareScales) out.unit = static_cast<float*>(parts[2]) + block;
  }
  return out;
}

// The scales of a row block [groups][16], rounded to what the format stores; returns their unit.
template <typename Type>
float fit_row_block(const RowBlock& values, int64_t groups, const float* importance,
                    FitScales fit_scales, int64_t first_row, float* scales) {
  Type::fit(values.data(), values.stride(), groups, importance, fit_scales, scales);
  const float unit = Type::unit(scales, groups);
  Type::round_scales(scales, groups, unit);
  for (int64_t i = 0; i < groups * kRowBlock; ++i) {
    if (!(std::fabs(scales[i]) <= 3.402823466e38f)) {
      throw_invalid("the weights hold a value too large for the format near row ",
                    first_row + i % kRowBlock);
    }
  }
  return unit;
}

// The codes of one row in one group: the scale is the same for all.
template <typename Type>
void encode_group(const float* values, float scale, uint8_t* codes) {
  for (int64_t i = 0; i < kColumnGroup; ++i) codes[i] = Type::encode(values[i], scale);
}

// Calls function(FormatType{}) for a quantised format; throws for any other.
template <typename Function>
void with_quantised(Format format, Function function) {
  with_format(format, [&](auto type) {
    if constexpr (decltype(type)::kQuantised) {
      function(type);
    } else {
      throw_invalid("the format ", format_name(format), " has no scales and no codes");
    }
  });
}

Matrix shape_of(int64_t rows, int64_t columns) {
  Matrix shape;
  shape.rows = rows;
  shape.columns = columns;
  return shape;
}

}  // namespace

void pack(Format format, const SourceMatrix& source, const std::vector<void*>& parts,
          FitScales fit_scales, ThreadPool& pool) {
  const Matrix shape = shape_of(source.rows, source.columns);
  const int64_t groups = shape.groups();
  with_format(format, [&](auto type) {
    using Type = decltype(type);
    pool.run(shape.row_blocks(), [&](int64_t block, int) {
      const RowBlock values(source, shape.padded_columns(), block);
      const int64_t stride = values.stride();
      const int64_t first_row = block * kRowBlock;
      const PackedBlock out = packed_block<Type>(parts, groups, block);
      if constexpr (Type::kQuantised) {
        std::vector<float> scales(static_cast<size_t>(groups * kRowBlock));
        const float unit =
            fit_row_block<Type>(values, groups, nullptr, fit_scales, first_row, scales.data());
        std::vector<uint8_t> codes(static_cast<size_t>(kRowBlock * stride));
        for (int64_t row = 0; row < kRowBlock; ++row) {
          for (int64_t group = 0; group < groups; ++group) {
            const int64_t first = row * stride + group * kColumnGroup;
            encode_group<Type>(values.data() + first,
                               scales[static_cast<size_t>(group * kRowBlock + row)],
                               codes.data() + first);
          }
        }
        Type::store_row_block(codes.data(), stride, groups, scales.data(), unit, out);
      } else {
        Type::pack_row_block(values.data(), stride, groups, out.weight);
        if constexpr (!std::is_same_v<Type, F32>) {
          static_assert(std::is_same_v<Type, F16> || std::is_same_v<Type, Bf16>);
          check_halves(static_cast<const uint16_t*>(out.weight), stride * kRowBlock,
                       std::is_same_v<Type, F16> ? 0x7c00 : 0x7f80, first_row);
        }
      }
    });
  });
}

void fit_scales(Format format, const float* values, int64_t rows, int64_t columns,
                const float* importance, FitScales kernel, ThreadPool& pool, float* scales,
                float* units) {
  const Matrix shape = shape_of(rows, columns);
  const int64_t groups = shape.groups();
  std::vector<float> padded;
  if (importance != nullptr) {
    padded.assign(importance, importance + columns);
    padded.resize(static_cast<size_t>(shape.padded_columns()), 0.0f);
  }
  with_quantised(format, [&](auto type) {
    using Type = decltype(type);
    pool.run(shape.row_blocks(), [&](int64_t block, int) {
      const RowBlock block_values({SourceType::f32, values, rows, columns}, shape.padded_columns(),
                                  block);
      std::vector<float> fitted(static_cast<size_t>(groups * kRowBlock));
      const int64_t first_row = block * kRowBlock;
      units[block] =
          fit_row_block<Type>(block_values, groups, importance == nullptr ? nullptr : padded.data(),
                              kernel, first_row, fitted.data());
      for (int64_t row = 0; row < kRowBlock && first_row + row < rows; ++row) {
        for (int64_t group = 0; group < groups; ++group) {
          scales[(first_row + row) * groups + group] =
              fitted[static_cast<size_t>(group * kRowBlock + row)];
        }
      }
    });
  });
}

void pack_codes(Format format, const uint8_t* codes, const float* scales, const float* units,
                int64_t rows, int64_t columns, const std::vector<void*>& parts) {
  const Matrix shape = shape_of(rows, columns);
  const int64_t groups = shape.groups();
  const int64_t stride = shape.padded_columns();
  with_quantised(format, [&](auto type) {
    using Type = decltype(type);
    for (int64_t block = 0; block < shape.row_blocks(); ++block) {
      // Padding gets the code of zero: it meets activations of zero, but a file should not depend
      // on what lay in memory.
      std::vector<uint8_t> padded(static_cast<size_t>(kRowBlock * stride), Type::encode(0, 1));
      std::vector<float> block_scales(static_cast<size_t>(groups * kRowBlock), 0.0f);
      for (int64_t row = 0; row < kRowBlock && block * kRowBlock + row < rows; ++row) {
        const int64_t source = block * kRowBlock + row;
        for (int64_t column = 0; column < columns; ++column) {
          const uint8_t code = codes[source * columns + column];
          if (code >= Type::kCodes || (Type::kCodes == 256 && code == 0)) {
            throw_invalid("the format ", Type::kName, " has no code ", static_cast<int>(code));
          }
          padded[static_cast<size_t>(row * stride + column)] = code;
        }
        for (int64_t group = 0; group < groups; ++group) {
          block_scales[static_cast<size_t>(group * kRowBlock + row)] =
              scales[source * groups + group];
        }
      }
      Type::store_row_block(padded.data(), stride, groups, block_scales.data(), units[block],
                            packed_block<Type>(parts, groups, block));
    }
  });
}

float round_scale(Format format, float scale, float unit) {
  float scales[kRowBlock] = {scale};
  with_quantised(format, [&](auto type) { decltype(type)::round_scales(scales, 1, unit); });
  return scales[0];
}

void encode(Format format, const float* values, const float* scales, int64_t rows, int64_t columns,
            uint8_t* codes) {
  const int64_t groups = shape_of(rows, columns).groups();
  with_quantised(format, [&](auto type) {
    for (int64_t i = 0; i < rows * columns; ++i) {
      const float scale = scales[i / columns * groups + i % columns / kColumnGroup];
      codes[i] = decltype(type)::encode(values[i], scale);
    }
  });
}

std::vector<int> levels(Format format) {
  std::vector<int> values;
  with_quantised(format, [&](auto type) {
    for (int code = 0; code < decltype(type)::kCodes; ++code) {
      values.push_back(decltype(type)::level(code));
    }
  });
  return values;
}

void unpack_row(const Matrix& matrix, int64_t row, float* out) {
  with_format(matrix.format, [&](auto type) { decltype(type)::unpack_row(matrix, row, out); });
}

}  // namespace pythia_rt
