// The one virtual vector of the project: 16 lanes of f32, on every machine.
//
// This header documents the interface and checks that an ISA's header offers it. Exactly one of
// scalar.h (the executable specification), avx2.h, avxvnni.h, avx512.h, amx.h, neon.h or i8mm.h is
// included first and puts everything below into namespace pythia_rt::PYTHIA_RT_ISA. simd/ is the
// only directory with intrinsics; kernels (*.inl) are written against this interface and compiled
// once per ISA.
//
// Every operation gives the same bits on every ISA: each lane is computed by one IEEE operation
// (a fused multiply-add rounds once), and reductions use one fixed tree. NaN is nobody's input.
//
// Vec: 16 x f32
//   zero() broadcast(x) load(p) store(p, v)         p needs no alignment
//   load_first(p, n) store_first(p, v, n)           only the first n lanes touch memory, the rest 0
//   load_f16(p) store_f16(p, v) load_bf16(p)        16-bit floats as uint16_t, ties to even
//   a + b  a - b  a * b  a / b  min(a, b) max(a, b)
//   fma(a, b, c)                                    a * b + c, rounded once
//   abs(a)
//   select_less(a, b, x, y)                         a < b ? x : y, lane by lane
//   fill_after(v, n, x)                             lanes n.. replaced by x
//   lookup(v, index)                                v[index], lane by lane; indices in 0..15
//   reduce_add(v) reduce_max(v)                     tree: lane i with i + 8, then 4, 2, 1
//   scale_by_power(v, n)                            v * 2^n, n in [-126, 127]
//   square_root(x)                                  of one float
//
// IntVec: 16 x i32
//   int_zero() int_broadcast(x) int_load(p) int_store(p, v) a + b
//   add_if_less(v, a, b, n)                         a < b ? v + n : v, lane by lane
//   to_float(v)                                     exact below 2^24
//   round_to_int(v)                                 ties to even; |v| < 2^31
//   load_i8(p)                                      16 signed bytes
//   store_i8(p, v)                                  16 bytes; lanes must lie in [-128, 127]
//   int_reduce_add(v)
//
// Tile: the weight tile of 64 bytes = 16 output rows x 4 input columns; byte 4 * row + column.
// Weights stand in it as unsigned bytes, `offset` larger than their value.
//   load_tile(p) store_tile(p, tile)
//   subtract_offset(tile, offset)                   signed bytes, for a matrix unit
//   Wide tiles (q8): offset 128, bytes 1..255. Narrow tiles (fewer bits): any offset, bytes 0..127.
//   wide_begin(sum)                                 a wide accumulator's start: -128 * sum in every
//                                                   lane where the ISA multiplies unsigned bytes,
//                                                   else 0; `sum` is that of the activations
//   narrow_begin(sum)                               a narrow one's: -sum; give offset * sum
//   wide_dot(acc, tile, a) narrow_dot(acc, tile, a) acc[row] += dot of the row's 4 bytes with the 4
//                                                   activations at a; |a| <= 127. Wide bytes count
//                                                   with or without their offset, as wide_begin
//                                                   says
//   pin(acc)                                        changes nothing; tells a compiler that would
//                                                   spill acc not to
//   Table load_table(p)                             16 bytes, each 0..127
//   low_nibbles(tile, table) high_nibbles(tile, table)  narrow tiles out of packed 4-bit codes
//   low_codes(tile) high_codes(tile)                the codes themselves
//   shift_left_4(tile) shift_right<n>(tile)         bits move within a byte; those that enter from
//                                                   outside may be anything
//   merge_bits(tile, bits, mask)                    tile | (bits & mask), byte by byte
// After begin and all dots of a group the lanes hold the exact sum of weight * activation,
// whatever the ISA did in between: |sum| < 2^24 for groups of up to 512 columns.
//
// Matrix unit: a header that defines PYTHIA_RT_MATRIX_UNIT multiplies whole blocks of tiles
// (amx.h). Halves: one that defines PYTHIA_RT_HALVES has too few registers for whole tiles and
// multiplies their halves, a register each (ymm.h), which may add several products before they
// become 32 bits (avx2.h).
//
// Panel: a header that defines PYTHIA_RT_PANEL as the name of a struct (neon.h, i8mm.h) has its own
// way to multiply many rows with a panel, the copy of the weights of 16 outputs that the rows
// share:
//   kRows, kRowStep                 rows at a time, at most; and what they are a multiple of
//   kColumns                        columns at a time; each is 16 bytes of the panel
//   store(p, first, second)         two neighbouring tiles of signed bytes, at their place in it
//   Dots<n> clear(dots)             the integers of 16 outputs of n rows
//   add(dots, panel, codes, stride) adds the products of kColumns columns
//   scale(dots, weight_scale, scales, stride, sums)
//                                   adds dot * (weight_scale * scale) to 16 n floats at `sums` as
//                                   fma and * do; scales[r * stride] is row r's
//   row(sums, r)                    the 16 floats of row r
//
// leave_vectors(): at the end of a kernel, before code that does not know of wide registers.
//
// kRowTile, kTokenTile: the register tile of a matrix product that suits the ISA, in blocks of 16
// output columns x rows of activations.
#pragma once

#include <cstddef>
#include <cstdint>
