// The bytes of a checkpoint's matrix, as Python hands them over.
#pragma once

#include <cstdint>
#include <string>

#include "bindings/arrays.h"
#include "formats/source.h"

namespace pythia_rt {

// The rows of a view, which stays the caller's; throws where it has another size.
inline SourceMatrix source_of(const py::buffer_info& view, const std::string& dtype, int64_t rows,
                              int64_t columns) {
  const SourceType type = source_type_from_name(dtype);
  const Blob blob = blob_of(view);
  const auto expected = static_cast<size_t>(rows * columns * source_type_bytes(type));
  if (blob.size != expected) {
    throw_invalid("a matrix of ", rows, " x ", columns, " ", dtype, " values has ", expected,
                  " bytes, not ", blob.size);
  }
  return {type, blob.data, rows, columns};
}

}  // namespace pythia_rt
