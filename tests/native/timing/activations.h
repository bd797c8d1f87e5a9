// Rows of activations for kernels to work on: random, padded and aligned as they want them.
#pragma once

#include <cstdint>

#include "base/aligned_buffer.h"
#include "kernels/table.h"

namespace pythia_rt {

class ActivationRows {
 public:
  // Values in [-1, 1), zero beyond the width.
  ActivationRows(int64_t count, int64_t width);

  float* data() const { return buffer_.as<float>(); }
  int64_t count() const { return count_; }
  int64_t width() const { return width_; }
  int64_t stride() const { return stride_; }  // a multiple of 64

 private:
  int64_t count_, width_, stride_;
  AlignedBuffer buffer_;
};

// Memory for rows in 8 bits.
class QuantisedBuffer {
 public:
  QuantisedBuffer(int64_t count, int64_t width);

  QuantisedRows rows() const;
  int64_t groups() const { return groups_; }

 private:
  int64_t groups_;
  AlignedBuffer codes_, scales_, sums_;
};

}  // namespace pythia_rt
