"""Defects that the emulated tests must catch, one at a time: one text of a kernel is replaced.

`kind` is the build that sees the defect (variants.py), `tests` the cases it is tried on. A defect
that gives right results in the emulator's orders of threads is left to the thread sanitizer.
"""

from __future__ import annotations

from dataclasses import dataclass

from cuda.variants import Change

KERNELS = "cuda/kernels/"


@dataclass(frozen=True)
class Mutation:
    """A defect: what is wrong, where, and who finds it."""

    name: str
    change: Change
    tests: str
    kind: str = "plain"
    # The kernel files that must be compiled anew, where not all that include the changed one.
    only: tuple[str, ...] = ()


def kernel(name: str, file: str, old: str, new: str, tests: str, kind: str = "plain") -> Mutation:
    return Mutation(name, Change(KERNELS + file, old, new), tests, kind)


def inline_ptx(name: str, old: str, new: str, kind: str) -> Mutation:
    change = Change("cuda/nvcc_port.cuh", old, new)
    return Mutation(name, change, "many_rows and q8", kind, ("linear_integer",))


MUTATIONS = [
    # Barriers.
    kernel(
        "products: no barrier before the totals are read",
        "linear_decode.cuh",
        "      __syncthreads();\n      if (is_owner) sum",
        "      if (is_owner) sum",
        "few_rows and q8",
    ),
    kernel(
        "products: a barrier in divergent code",
        "linear_decode.cuh",
        "      __syncthreads();\n      if (is_owner) sum",
        "      if (is_owner) {\n__syncthreads();\n} else {\n__syncthreads();\n}\n"
        "      if (is_owner) sum",
        "few_rows and q8",
    ),
    kernel(
        "products: the second one begins while the first one's totals are read",
        "linear_integer.cu",
        "  if (share.first && share.second) __syncthreads();\n  if (share.second) decode_format",
        "  if (share.second) decode_format",
        "same_rows and q4 and few",
        "thread",
    ),
    kernel(
        "products: tokens are read before all threads have copied them",
        "linear_prefill.cuh",
        "nobody reads the one before.\n    __syncthreads();",
        "nobody reads the one before.",
        "many_rows and q6",
    ),
    kernel(
        "float products: a group's weights are replaced while they are read",
        "linear_float_prefill.cuh",
        "sums[t][i] + parts[t][i];\n    }\n    __syncthreads();",
        "sums[t][i] + parts[t][i];\n    }",
        "many_rows and f32",
        "thread",
    ),
    kernel(
        "norm: summed before it is loaded",
        "norm.cu",
        "load_piece(row, begin, end, piece);\n      __syncthreads();",
        "load_piece(row, begin, end, piece);",
        "norms",
    ),
    kernel(
        "norm: a piece is replaced while it is summed",
        "norm.cu",
        "      __syncthreads();\n      load_piece",
        "      load_piece",
        "norms",
    ),
    kernel(
        "cache: lanes append what other lanes have not rotated yet",
        "rope.cu",
        "  __syncwarp();\n  constexpr",
        "  constexpr",
        "single_tokens and f16",
        "thread",
    ),
    kernel(
        "attention of rows: a stage is overwritten while it is read",
        "attention_by_rows.cu",
        "    __syncthreads();\n  }\n#pragma unroll",
        "  }\n#pragma unroll",
        "wide and f16",
        "thread",
    ),
    # Copies.
    kernel(
        "products: copies are not waited for",
        "linear_prefill.cuh",
        "    copy_async_wait<kPrefillStages - 2>();\n",
        "",
        "many_rows and q4",
    ),
    kernel(
        "attention of rows: one copy too few is waited for",
        "attention_by_rows.cu",
        "copy_async_wait<1>();",
        "copy_async_wait<2>();",
        "single_tokens and f32",
    ),
    # Lanes.
    kernel(
        "products: the wrong plane of high bits",
        "weights_integer.cuh",
        "kHighBits == 2 ? q : q / 2;",
        "kHighBits == 2 ? q : q % 2;",
        "few_rows and q5",
    ),
    kernel(
        "products: low nibbles taken for high ones",
        "weights_integer.cuh",
        "low = __byte_perm(pairs[0], pairs[1], 0x6420u);",
        "low = __byte_perm(pairs[0], pairs[1], 0x7531u);",
        "few_rows and q4",
    ),
    kernel(
        "quantising: lanes that are needed for a shuffle have left",
        "quantise.cu",
        "  float4 x = {0.0f",
        "  if (!is_there) return;\n  float4 x = {0.0f",
        "scores",
    ),
    kernel(
        "sums of lanes: a step too many",
        "lanes.cuh",
        "distance = kLanes / 2; distance > 0; distance /= 2) {\n    lane = lane +",
        "distance = kLanes; distance > 0; distance /= 2) {\n    lane = lane +",
        "norms",
    ),
    # Ends.
    kernel(
        "products: the last group of columns is left out",
        "linear_decode.cuh",
        "if (index < work.groups) decoder.leave",
        "if (index + 1 < work.groups) decoder.leave",
        "few_rows and q6",
    ),
    kernel(
        "products: rows that the matrix does not have",
        "linear_decode.cuh",
        "if (is_owner && row < work.rows) {",
        "if (is_owner) {",
        "few_rows and q8",
        "address",
    ),
    kernel(
        "norm: the padding is counted",
        "norm.cu",
        "const int64_t left = width - begin;",
        "const int64_t left = end - begin;",
        "norms",
    ),
    kernel(
        "attention of rows: a token does not see itself",
        "attention_by_rows.cu",
        "place.position + 1 - index",
        "place.position - index",
        "single_tokens and f16",
    ),
    kernel(
        "attention of tiles: tokens see the next one",
        "attention_by_tiles.cu",
        "warp_queries.end[q] = tile.first_position + position_of(row) + 1;",
        "warp_queries.end[q] = tile.first_position + position_of(row) + 2;",
        "prompts and f16",
    ),
    kernel(
        "attention of rows: the last block of positions is not joined",
        "attention_by_rows.cu",
        "place.position / kPositions + 1;",
        "(place.position + kPositions - 1) / kPositions;",
        "single_tokens and f32",
    ),
    # Indices.
    kernel(
        "gating: gate and up are exchanged",
        "finish.cu",
        "finished(epilogue, *gate, place) * gate[kBlock]",
        "finished(epilogue, gate[kBlock], place) * *gate",
        "gating",
    ),
    kernel(
        "finishing: all rows get the first one's values",
        "finish.cu",
        "in.data[row * in.stride + column]",
        "in.data[column]",
        "finishing",
    ),
    kernel(
        "products: another token's scale",
        "linear_decode.cuh",
        "round.token_scales[i][warp]",
        "round.token_scales[i][lane % kDecodeTokens]",
        "few_rows and q8",
    ),
    kernel(
        "cache: one scale for all positions of a tile",
        "rope.cu",
        "(tile * groups + i / kKvGroup) * 16 + lane;",
        "(tile * groups + i / kKvGroup) * 16;",
        "prompts and q8",
    ),
    kernel(
        "cache: every block of positions in the first page",
        "kv_cache.cuh",
        "pages[index] + offset",
        "pages[0] + offset",
        "single_tokens and f16",
    ),
    kernel(
        "cache: positions counted from the sequence's first one, not the page's",
        "rope.cu",
        "place.position % kPositions",
        "place.position",
        "single_tokens and f16",
        "address",
    ),
    kernel(
        "attention of rows: parts of a group read beyond their keys",
        "attention_by_rows.cu",
        "blockIdx.y / parts",
        "blockIdx.y",
        "large_groups and f16",
        "address",
    ),
    kernel(
        "attention of rows: one position more than the window",
        "attention_by_rows.cu",
        "first_visible <= thread &&",
        "first_visible - 1 <= thread &&",
        "window and f16",
    ),
    kernel(
        "attention of tiles: one position more than the window",
        "attention_by_tiles.cu",
        "first[q] <= position && position < end[q]",
        "first[q] - 1 <= position && position < end[q]",
        "window and f16",
    ),
    kernel(
        "attention of rows: values before the window are multiplied by 0",
        "attention_by_rows.cu",
        "begin < first_visible ? first_visible : begin",
        "begin",
        "before_a_window and few and f16",
    ),
    kernel(
        "attention of tiles: values before the window are multiplied by 0",
        "attention_by_tiles.cu",
        "kMasked && !queries.sees(q, block + position)",
        "kMasked && block + position >= queries.end[q]",
        "before_a_window and many and f16",
    ),
    kernel(
        "attention of rows: a part of a group is taken for the next one",
        "attention_by_rows.cu",
        "blockIdx.y % parts",
        "0",
        "large_groups and f16",
    ),
    kernel(
        "attention of tiles: heads and positions are taken for each other",
        "attention_by_tiles.cu",
        "kv_head * group + (first_row + row) % group",
        "kv_head * group + (first_row + row) / group % group",
        "groups and f16",
    ),
    kernel(
        "products: weights loaded from between two multiples of 16 bytes",
        "weights_integer.cuh",
        "weight + (q * kPieces + i) * kTileBytes + j * 16",
        "weight + (q * kPieces + i) * kTileBytes + j * 16 + 4",
        "few_rows and q8",
        "address",
    ),
    # Arithmetic and limits.
    kernel(
        "quantising: a step too large",
        "quantise.cu",
        "127.0f / largest;",
        "126.0f / largest;",
        "few_rows and q8",
    ),
    kernel(
        "norm: an RMS norm takes the mean off",
        "norm.cu",
        "if constexpr (kCentres) {\n    mean",
        "if constexpr (true) {\n    mean",
        "norms",
    ),
    kernel(
        "norm: more shared memory than a block may have",
        "norm.cu",
        "kPiece = 6144;",
        "kPiece = 12800;",
        "norms",
    ),
    kernel(
        "norms of heads: all have the first one's weights",
        "norm_parts.cu",
        "parameters.weight[part + i]",
        "parameters.weight[i]",
        "heads_are_normed",
    ),
    kernel(
        "norms of heads: half a warp without a head leaves before the shuffles",
        "norm_parts.cu",
        "  const int64_t lane = threadIdx.x % kLanes;\n",
        "  const int64_t lane = threadIdx.x % kLanes;\n  if (end == 0) return;\n",
        "heads_are_normed",
    ),
    # What only nvcc compiles.
    inline_ptx(
        "inline PTX: the registers of B are swapped",
        '"r"(a[3]), "r"(b[0]), "r"(b[1]));',
        '"r"(a[3]), "r"(b[1]), "r"(b[0]));',
        "ptx80",
    ),
    inline_ptx(
        "inline PTX: the accumulator is not read whole",
        '"{%0,%1,%2,%3};"',
        '"{%0,%1,%2,%2};"',
        "ptx80",
    ),
    inline_ptx(
        "inline PTX: copies are not waited for on sm_80",
        'asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");',
        "",
        "ptx80",
    ),
    inline_ptx(
        "inline PTX: groups of copies are not closed on sm_80",
        'asm volatile("cp.async.commit_group;" ::: "memory");',
        "",
        "ptx80",
    ),
    inline_ptx(
        "sm_75: the wrong half of A",
        '"r"(a[half + 2 * step])',
        '"r"(a[2 * half + step])',
        "ptx75",
    ),
    inline_ptx(
        "sm_75: half of the columns is forgotten",
        "step < 2; ++step",
        "step < 1; ++step",
        "ptx75",
    ),
]
