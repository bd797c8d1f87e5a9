// Matrix product with f32, f16 or bf16 weights and f32 activations.
//
// Each output is a sum over groups of 64 columns, in order, of the group's own sum, in order: the
// rounding error grows with groups + 64 instead of with the number of columns.
#pragma once

#include "formats/floats.h"
#include "kernels/finish.inl"
#include "kernels/register_tiles.inl"

namespace pythia_rt::PYTHIA_RT_ISA {

// 16 weights of a format.
inline Vec load_weights(F32, const float* p) { return load(p); }
inline Vec load_weights(F16, const uint16_t* p) { return load_f16(p); }
inline Vec load_weights(Bf16, const uint16_t* p) { return load_bf16(p); }

template <typename Type>
struct FloatWork {
  // The order of additions leaves one accumulator per output: several blocks hide its latency.
  static constexpr int kSingleRowTile = 4;

  const LinearArguments& arguments;
  int64_t groups;

  template <int kBlocks, int kRows>
  void run(int64_t block, int64_t row) const {
    for (int b = 0; b < kBlocks; ++b) ask_for_places(arguments, block + b, row, kRows);
    multiply<kBlocks, kRows>(block, row);
  }

  // Not inline: the sums need the registers.
  template <int kBlocks, int kRows>
  [[gnu::noinline]] void multiply(int64_t block, int64_t row) const {
    using Stored = typename Type::Value;
    const int64_t block_size = groups * kColumnGroup * kRowBlock;
    const Stored* weights =
        static_cast<const Stored*>(arguments.matrix->weight) + block * block_size;
    const float* in = arguments.in + row * arguments.in_stride;
    Vec sum[kBlocks][kRows];
    for (auto& rows : sum) {
      for (Vec& lanes : rows) lanes = zero();
    }
    for (int64_t group = 0; group < groups; ++group) {
      Vec part[kBlocks][kRows];
      for (auto& rows : part) {
        for (Vec& lanes : rows) lanes = zero();
      }
      for (int64_t i = group * kColumnGroup; i < (group + 1) * kColumnGroup; ++i) {
        for (int b = 0; b < kBlocks; ++b) {
          const Vec weight = load_weights(Type{}, weights + b * block_size + i * kRowBlock);
          for (int r = 0; r < kRows; ++r) {
            part[b][r] = fma(weight, broadcast(in[r * arguments.in_stride + i]), part[b][r]);
          }
        }
      }
      for (int b = 0; b < kBlocks; ++b) {
        for (int r = 0; r < kRows; ++r) sum[b][r] = sum[b][r] + part[b][r];
      }
    }
    for (int b = 0; b < kBlocks; ++b) {
      for (int r = 0; r < kRows; ++r) finish(arguments, block + b, row + r, sum[b][r]);
    }
  }
};

template <typename Type>
inline void linear_float(const LinearArguments& arguments) {
  run_tiles(
      FloatWork<Type>{arguments, (arguments.matrix->columns + kColumnGroup - 1) / kColumnGroup},
      arguments);
}

}  // namespace pythia_rt::PYTHIA_RT_ISA
