// A Python function that takes what is captured, pass by pass.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "bindings/array_memory.h"
#include "bindings/arrays.h"
#include "bindings/edits.h"
#include "bindings/python_hook.h"
#include "forward/captures.h"

namespace pythia_rt {

// Made and destroyed with the lock, called without it.
class PythonSink : public RowSink {
 public:
  PythonSink(py::function function, bool in_halves)
      : function_(std::move(function)), in_halves_(in_halves) {}

  void* room(size_t capture, int64_t text, const std::vector<int64_t>& positions,
             const std::vector<int64_t>& shape) override {
    const GilAcquire lock;
    const auto n = static_cast<py::ssize_t>(positions.size());
    rooms_.push_back(
        {capture, text, NumberArray(n, positions.data()), new_array(in_halves_, shape)});
    return rooms_.back().rows.mutable_data();
  }

  void deliver() override {
    const GilAcquire lock;
    for (Room& room : std::exchange(rooms_, {})) {
      function_(room.capture, room.text, room.positions, room.rows);
    }
  }

 private:
  struct Room {
    size_t capture;
    int64_t text;
    NumberArray positions;
    py::array rows;
  };

  py::function function_;
  bool in_halves_;
  std::vector<Room> rooms_;
};

}  // namespace pythia_rt
