// A Python object that has a say in each token of a text (writing/hook.h).
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "bindings/arrays.h"
#include "bindings/gil.h"
#include "writing/hook.h"

namespace pythia_rt {

// Takes the lock as long as it lives, in a thread that gave it away.
class GilAcquire {
 public:
  GilAcquire() {
    may_take_gil([this] { state_ = PyGILState_Ensure(); });
  }
  ~GilAcquire() { PyGILState_Release(state_); }
  GilAcquire(const GilAcquire&) = delete;
  GilAcquire& operator=(const GilAcquire&) = delete;

 private:
  PyGILState_STATE state_;
};

// Made and destroyed with the lock, called without it.
class PythonHook : public Hook {
 public:
  PythonHook(py::object object, int64_t vocab_size)
      : object_(std::move(object)),
        vocab_size_(vocab_size),
        masks_(object_.attr("masks").cast<bool>()),
        changes_(object_.attr("changes").cast<bool>()) {}

  bool masks() const override { return masks_; }
  bool changes() const override { return changes_; }

  const uint32_t* allowed() override {
    const GilAcquire lock;
    const py::object mask = object_.attr("allowed")();
    if (mask.is_none()) return nullptr;
    mask_ = mask.cast<Mask>();
    if (mask_.ndim() != 1 || mask_.size() * 32 < vocab_size_) {
      throw_invalid("a mask must be an array of uint32 with a bit for each of the ", vocab_size_,
                    " ids");
    }
    return mask_.data();
  }

  void change(float* logits, int64_t n) override {
    const GilAcquire lock;
    // A view: the object outlives the call if somebody keeps it, so it owns what it shows.
    FloatArray row(n, logits);
    object_.attr("change")(row);
    std::copy_n(row.data(), n, logits);
  }

  void accept(int32_t token) override {
    const GilAcquire lock;
    object_.attr("accept")(token);
  }

 private:
  using Mask = py::array_t<uint32_t, py::array::c_style | py::array::forcecast>;

  py::object object_;
  int64_t vocab_size_;
  bool masks_, changes_;
  Mask mask_;
};

}  // namespace pythia_rt
