// Weights of f32, f16 and bf16: [row_blocks][padded_columns][16 rows], four rows at a time.
#pragma once

#include "cuda/kernels/linear_work.cuh"
#include "formats/floats.h"

namespace pythia_rt::cuda {

// What a stored value is in a format.
__device__ __forceinline__ float value_of(F32, float stored) { return stored; }
__device__ __forceinline__ float value_of(F16, uint16_t stored) { return half_to_float(stored); }
__device__ __forceinline__ float value_of(Bf16, uint16_t stored) { return bfloat_to_float(stored); }

template <typename Type>
struct FloatWeights {
  using Value = typename Type::Value;
  static constexpr int kBytes = sizeof(Value);

  // Rows `row` to row + 3, a multiple of 4, of a column of a block of 16 rows.
  __device__ __forceinline__ static float4 load(const uint8_t* block, int column, int row) {
    const uint8_t* place = block + (column * kRowBlock + row) * kBytes;
    if constexpr (kBytes == 4) {
      return *reinterpret_cast<const float4*>(place);
    } else {
      const uint2 pairs = *reinterpret_cast<const uint2*>(place);
      return make_float4(value(pairs.x), value(pairs.x >> 16), value(pairs.y),
                         value(pairs.y >> 16));
    }
  }

  // The block of a row, or the last one there is.
  __device__ __forceinline__ static const uint8_t* block(const LinearWork& work, int row) {
    const int64_t index = least(row, work.rows - 1) / kRowBlock;
    return work.weight + index * work.groups * (kColumnGroup * kRowBlock * kBytes);
  }

 private:
  __device__ __forceinline__ static float value(unsigned bits) {
    return value_of(Type{}, static_cast<uint16_t>(bits));
  }
};

}  // namespace pythia_rt::cuda
