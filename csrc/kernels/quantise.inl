// Activations to 8 bits, per row and group of 64: scale = largest / 127, ties to even.
#pragma once

#include "kernels/table.h"

namespace pythia_rt::PYTHIA_RT_ISA {

inline void quantise_group(const float* in, int8_t* codes, float* scale, int32_t* sum) {
  const Vec x[4] = {load(in), load(in + 16), load(in + 32), load(in + 48)};
  const float largest = reduce_max(max(max(abs(x[0]), abs(x[1])), max(abs(x[2]), abs(x[3]))));
  // A group whose largest value is subnormal has no finite inverse: it counts as zero.
  const bool is_zero = largest < 1e-36f;
  const Vec inverse = broadcast(is_zero ? 0.0f : 127.0f / largest);
  IntVec total = int_zero();
  for (int i = 0; i < 4; ++i) {
    const IntVec code = round_to_int(x[i] * inverse);
    store_i8(codes + 16 * i, code);
    total = total + code;
  }
  *scale = is_zero ? 0.0f : largest / 127.0f;
  *sum = int_reduce_add(total);
}

inline void quantise(const QuantiseArguments& arguments) {
  for (int64_t row = arguments.row_begin; row < arguments.row_end; ++row) {
    for (int64_t group = 0; group < arguments.groups; ++group) {
      const int64_t column = group * kColumnGroup;
      const int64_t index = row * arguments.groups + group;
      quantise_group(arguments.in + row * arguments.stride + column,
                     arguments.out.codes + row * arguments.out.stride + column,
                     arguments.out.scales + index, arguments.out.sums + index);
    }
  }
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
