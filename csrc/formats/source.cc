#include "formats/source.h"

#include "base/error.h"
#include "base/half.h"

namespace pythia_rt {

namespace {

// The loops below have no branch and add up a mark instead of asking each value, so that compilers
// make vectors of them.
constexpr uint32_t kLargestFinite = 0x7f7fffffu;

// A mark that is not 0 where a value is infinite or no number.
uint32_t mark_not_finite(uint32_t bits) { return (bits & 0x7fffffffu) > kLargestFinite ? 1 : 0; }

bool read_floats(const float* in, int64_t count, float* out) {
  uint32_t marks = 0;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = in[i];
    marks |= mark_not_finite(float_bits(in[i]));
  }
  return marks == 0;
}

bool read_bfloats(const uint16_t* in, int64_t count, float* out) {
  uint32_t marks = 0;
  for (int64_t i = 0; i < count; ++i) {
    out[i] = float_from_bfloat(in[i]);
    marks |= mark_not_finite(float_bits(out[i]));
  }
  return marks == 0;
}

bool read_halves(const uint16_t* in, int64_t count, float* out) {
  uint32_t marks = 0;
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t half = in[i];
    const uint32_t magnitude = (half & 0x7fffu) << 13;
    // The exponent is too small by 112, the difference of the biases. That of a subnormal number is
    // made one more, and what this adds to the mantissa taken away.
    const bool is_subnormal = (half & 0x7c00u) == 0;
    const float moved = float_from_bits(magnitude + (is_subnormal ? 113u << 23 : 112u << 23));
    const float value = moved - (is_subnormal ? 0x1p-14f : 0.0f);
    out[i] = float_from_bits(float_bits(value) | (half & 0x8000u) << 16);
    marks |= (half & 0x7c00u) > 0x7bffu ? 1u : 0u;
  }
  if (marks == 0) return true;
  for (int64_t i = 0; i < count; ++i) out[i] = float_from_half(in[i]);
  return false;
}

bool read_values(SourceType type, const void* values, int64_t begin, int64_t count, float* out) {
  switch (type) {
    case SourceType::f32:
      return read_floats(static_cast<const float*>(values) + begin, count, out);
    case SourceType::f16:
      return read_halves(static_cast<const uint16_t*>(values) + begin, count, out);
    case SourceType::bf16:
      return read_bfloats(static_cast<const uint16_t*>(values) + begin, count, out);
  }
  throw_invalid("there is no source type number ", static_cast<int>(type));
}

}  // namespace

SourceType source_type_from_name(const std::string& name) {
  if (name == "F32") return SourceType::f32;
  if (name == "F16") return SourceType::f16;
  if (name == "BF16") return SourceType::bf16;
  throw_invalid("weights of type '", name, "' cannot be packed; there are F32, F16, BF16");
}

int64_t source_type_bytes(SourceType type) { return type == SourceType::f32 ? 4 : 2; }

bool read_row(const SourceMatrix& source, int64_t row, float* out) {
  const int64_t columns = source.columns;
  bool is_finite = read_values(source.type, source.values, row * columns, columns, out);
  if (source.column_factors != nullptr) {
    for (int64_t i = 0; i < columns; ++i) out[i] *= source.column_factors[i];
  }
  if (source.row_factors != nullptr) {
    const float factor = source.row_factors[row];
    for (int64_t i = 0; i < columns; ++i) out[i] *= factor;
  }
  if (source.column_factors != nullptr || source.row_factors != nullptr) {
    is_finite = read_floats(out, columns, out);
  }
  return is_finite;
}

}  // namespace pythia_rt
