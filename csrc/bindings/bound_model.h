// A model as Python holds it.
#pragma once

#include <pybind11/pybind11.h>

#include <memory>

#include "base/error.h"
#include "base/mapped_range.h"
#include "bindings/held_buffers.h"
#include "engine/model.h"

namespace pythia_rt {

// A model and the Python buffers that hold its weights.
struct BoundModel {
  // Throws std::runtime_error where weights could not be read: what was computed is wrong.
  void check_memory() const {
    for (const Blob& blob : buffers.blobs()) {
      if (is_damaged(blob.data, blob.size)) {
        throw_failed(
            "the model's file was cut short while it was in use, or its disk failed: load "
            "it again");
      }
    }
  }

  HeldBuffers buffers;
  pybind11::dict spec;
  std::unique_ptr<Model> model;
};

}  // namespace pythia_rt
