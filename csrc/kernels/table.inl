// The kernel table of one ISA. Included by kernels/isa.cc.in, once per entry of cmake/isas.cmake.
#pragma once

#include "formats/types.h"
#include "kernels/append.inl"
#include "kernels/attention.inl"
#include "kernels/finish.inl"
#include "kernels/fit_scales.inl"
#include "kernels/linear_float.inl"
#include "kernels/linear_integer.inl"
#include "kernels/norm.inl"
#include "kernels/quantise.inl"
#include "kernels/rope.inl"
#include "kernels/softmax.inl"
#include "kernels/table.h"
#if defined(PYTHIA_RT_MATRIX_UNIT)
#include "kernels/linear_matrix_unit.inl"
#elif defined(PYTHIA_RT_HALVES)
#include "kernels/linear_halves.inl"
#elif defined(PYTHIA_RT_PANEL)
#include "kernels/linear_panel.inl"
#endif

namespace pythia_rt::PYTHIA_RT_ISA {

#if defined(PYTHIA_RT_MATRIX_UNIT)

inline bool uses_unit(const LinearArguments& a) { return uses_unit(a.row_end - a.row_begin); }

inline void linear_q8(const LinearArguments& a) {
  uses_unit(a) ? linear_on_unit<WideGroup>(a) : linear_stored<WideGroup>(a);
}
template <int kBits>
inline void linear_packed(const LinearArguments& a) {
  uses_unit(a) ? linear_on_unit<PackedGroup<kBits>>(a) : linear_stored<PackedGroup<kBits>>(a);
}
inline int64_t panel_blocks(bool, int64_t rows) { return uses_unit(rows) ? kUnitBlocks : 0; }

#elif defined(PYTHIA_RT_PANEL)

inline bool uses_panel(const LinearArguments& a) { return a.row_end - a.row_begin >= kPanelRows; }

inline void linear_q8(const LinearArguments& a) {
  uses_panel(a) ? linear_panel<WideGroup>(a) : linear_stored<WideGroup>(a);
}
template <int kBits>
inline void linear_packed(const LinearArguments& a) {
  uses_panel(a) ? linear_panel<PackedGroup<kBits>>(a) : linear_stored<PackedGroup<kBits>>(a);
}
inline int64_t panel_blocks(bool, int64_t rows) { return rows >= kPanelRows ? 1 : 0; }

#elif defined(PYTHIA_RT_HALVES)

// One row goes through whole blocks, a few, if any, through whole tiles, more through halves.
enum class Way { row, tiles, halves };
inline Way way_of(const LinearArguments& a) {
  const int64_t rows = a.row_end - a.row_begin;
  return rows == 1 ? Way::row : rows < kHalvesFrom ? Way::tiles : Way::halves;
}

inline void linear_q8(const LinearArguments& a) {
  switch (way_of(a)) {
    case Way::row:
      return linear_row<WideRow>(a);
    case Way::tiles:
      if constexpr (kHalvesFrom > 2) linear_stored<WideGroup>(a);
      return;
    case Way::halves:
      return linear_halves<WideHalf>(a);
  }
}
template <int kBits>
inline void linear_packed(const LinearArguments& a) {
  switch (way_of(a)) {
    case Way::row:
      return linear_row<NarrowRow<kBits>>(a);
    case Way::tiles:
      if constexpr (kHalvesFrom > 2) linear_stored<PackedGroup<kBits>>(a);
      return;
    case Way::halves:
      if constexpr (kHalvesFrom < kPanelRows) {
        if (a.row_end - a.row_begin < kPanelRows) return linear_halves<StoredHalf<kBits>>(a);
      }
      return linear_packed_halves<kBits>(a);
  }
}

inline int64_t panel_blocks(bool packed, int64_t rows) {
  return packed && rows >= kPanelRows ? 1 : 0;
}

#else

inline void linear_q8(const LinearArguments& a) { linear_stored<WideGroup>(a); }
template <int kBits>
inline void linear_packed(const LinearArguments& a) {
  linear_stored<PackedGroup<kBits>>(a);
}
inline int64_t panel_blocks(bool, int64_t) { return 0; }

#endif

template <typename Type>
inline void linear(const LinearArguments& a) {
  if constexpr (!Type::kQuantised) {
    linear_float<Type>(a);
  } else if constexpr (Type::kBits == 8) {
    linear_q8(a);
  } else {
    linear_packed<Type::kBits>(a);
  }
}

inline int64_t linear_panel_bytes(const Matrix& matrix, int64_t rows) {
  if (matrix.scales == nullptr) return 0;       // not quantised
  const bool packed = matrix.units != nullptr;  // of fewer than 8 bits
  const int64_t groups = (matrix.columns + kColumnGroup - 1) / kColumnGroup;
  return panel_blocks(packed, rows) * groups * kUnpackedGroup;
}

// What the table holds: a kernel, and leaving the wide registers clean behind it. Compilers do that
// at most exits but not at all, and where it is missing the code that runs next, compiled for any
// processor, takes 15 to 50 times as long.
template <auto kKernel>
struct Entry;

template <typename... Arguments, void (*kKernel)(Arguments...)>
struct Entry<kKernel> {
  static void call(Arguments... arguments) {
    kKernel(arguments...);
    leave_vectors();
  }
};

extern const KernelTable kTable;
const KernelTable kTable = {
    PYTHIA_RT_ISA_NAME,
    {
#define PYTHIA_RT_FORMAT(type, name) Entry<linear<type>>::call,
#include "formats/formats.inc"
#undef PYTHIA_RT_FORMAT
    },
    linear_panel_bytes,
    Entry<finish_rows>::call,
    Entry<finish_gated_rows>::call,
    Entry<quantise>::call,
    Entry<layer_norm_rows>::call,
    Entry<rms_norm_rows>::call,
    Entry<norm_parts>::call,
    Entry<rotate>::call,
    {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) Entry<append<cache>>::call,
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
    },
    {
#define PYTHIA_RT_KV_FORMAT(cache, name, code_type, is_scaled) Entry<attention<cache>>::call,
#include "formats/kv_formats.inc"
#undef PYTHIA_RT_KV_FORMAT
    },
    Entry<fit_scales>::call,
    Entry<softmax_run>::call,
    Entry<softmax_merge>::call,
};

}  // namespace pythia_rt::PYTHIA_RT_ISA
