// What bounds the kernels of one ISA: loops that do nothing but read, or nothing but multiply.
// Compiled once per ISA, for the test extension alone.
#pragma once

#include <cstdint>

namespace pythia_rt {

struct MultiplyLoop {
  // `operands`: 4 KiB of any bytes in 0x38..0x3f (limits/page_buffer.h says why those). The result
  // is there so that nothing can be left out.
  float (*run)(const uint8_t* operands, int64_t rounds);
  int64_t operations;  // of one round; a multiplication and its addition are two
};

struct LimitTable {
  const char* isa;
  float (*read)(const float* values, int64_t count);  // count: a multiple of 128
  MultiplyLoop int8;                                  // the quickest dot product of bytes
  MultiplyLoop fp32;                                  // fused multiply-adds
};

}  // namespace pythia_rt
