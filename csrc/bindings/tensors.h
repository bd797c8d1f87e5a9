// A model's tensors and their formats, as Python names them.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

#include "bindings/held_buffers.h"
#include "formats/formats.h"
#include "model/weights.h"

namespace pythia_rt {

using FormatNames = std::map<std::string, std::string>;  // by matrix
using Buffers = std::map<std::string, py::buffer>;       // by tensor

inline std::map<std::string, Format> formats_of(const FormatNames& names) {
  std::map<std::string, Format> formats;
  for (const auto& [matrix, name] : names) formats[matrix] = format_from_name(name);
  return formats;
}

inline std::map<std::string, Blob> blobs_of(const Buffers& tensors, HeldBuffers& held) {
  std::map<std::string, Blob> blobs;
  for (const auto& [name, buffer] : tensors) blobs[name] = held.add(buffer);
  return blobs;
}

}  // namespace pythia_rt
