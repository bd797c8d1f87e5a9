// What bounds the kernels of one ISA: loops that do nothing but read, or nothing but multiply.
// Compiled once per ISA, for the test extension alone.
#pragma once

#include <cstdint>

#include "formats/matrix.h"

namespace pythia_rt {

struct MultiplyLoop {
  // `operands`: 4 KiB of any bytes in 0x38..0x3f (limits/page_buffer.h says why those). The result
  // is there so that nothing can be left out.
  float (*run)(const uint8_t* operands, int64_t rounds);
  int64_t operations;  // of one round; a multiplication and its addition are two
};

struct LimitTable {
  const char* isa;
  // Which is faster depends on the machine. count: a multiple of 128.
  float (*read[2])(const float* values, int64_t count);
  MultiplyLoop fp32;  // fused multiply-adds
  // By Format, those that quantise: the quickest exact dot product of such weights with bytes.
  MultiplyLoop bytes[kFormatCount];
};

}  // namespace pythia_rt
