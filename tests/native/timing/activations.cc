#include "timing/activations.h"

#include "base/error.h"
#include "base/rounding.h"
#include "formats/matrix.h"

namespace pythia_rt {

namespace {

constexpr int64_t kUnitRows = 16;  // a matrix unit reads whole tiles of rows (kernels/table.h)
constexpr int64_t kMost = int64_t{1} << 24;

int64_t checked(int64_t size) {
  if (size < 1 || size > kMost) throw_invalid("there is nothing to time with a size of ", size);
  return size;
}

int64_t padded_rows(int64_t count) { return round_up(checked(count), kUnitRows); }

size_t bytes(int64_t count, size_t each) { return static_cast<size_t>(count) * each; }

}  // namespace

ActivationRows::ActivationRows(int64_t count, int64_t width)
    : count_(count),
      width_(checked(width)),
      stride_(round_up(width, int64_t{kColumnGroup})),
      buffer_(bytes(padded_rows(count) * stride_, sizeof(float))) {
  uint32_t state = 1;
  for (int64_t row = 0; row < count; ++row) {
    for (int64_t i = 0; i < width; ++i) {
      state = state * 1664525u + 1013904223u;
      data()[row * stride_ + i] = static_cast<float>(static_cast<int32_t>(state)) * 0x1p-31f;
    }
  }
}

QuantisedBuffer::QuantisedBuffer(int64_t count, int64_t width)
    : groups_(divide_up(checked(width), int64_t{kColumnGroup})),
      codes_(bytes(padded_rows(count) * (groups_ | 1) * kColumnGroup, 1)),
      scales_(bytes(padded_rows(count) * groups_, sizeof(float))),
      sums_(bytes(padded_rows(count) * groups_, sizeof(int32_t))) {}

QuantisedRows QuantisedBuffer::rows() const {
  return {codes_.as<int8_t>(), (groups_ | 1) * kColumnGroup, scales_.as<float>(),
          sums_.as<int32_t>()};
}

}  // namespace pythia_rt
