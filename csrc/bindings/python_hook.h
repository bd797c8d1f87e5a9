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
  // `n_words` are those of the sampler's masks.
  PythonHook(py::object object, size_t n_words)
      : object_(std::move(object)),
        n_words_(static_cast<py::ssize_t>(n_words)),
        masks_(object_.attr("masks").cast<bool>()),
        changes_(object_.attr("changes").cast<bool>()) {}

  bool masks() const override { return masks_; }
  bool changes() const override { return changes_; }

  const uint32_t* allowed() override {
    const GilAcquire lock;
    const py::object mask = object_.attr("allowed")();
    if (mask.is_none()) return nullptr;
    mask_ = mask.cast<Mask>();
    if (mask_.ndim() != 1 || mask_.size() < n_words_) {
      throw_invalid("a mask must be a one-dimensional array of ", n_words_,
                    " uint32, a bit for each id");
    }
    return mask_.data();
  }

  void change(const float* logits, int64_t n, float* out) override {
    const GilAcquire lock;
    // Somebody may keep the array, and write into it later: it is a copy, and is copied.
    FloatArray row(n, logits);
    object_.attr("change")(row);
    std::copy_n(row.data(), n, out);
  }

  void accept(int32_t token) override {
    const GilAcquire lock;
    object_.attr("accept")(token);
  }

 private:
  using Mask = py::array_t<uint32_t, py::array::c_style | py::array::forcecast>;

  py::object object_;
  py::ssize_t n_words_;
  bool masks_, changes_;
  Mask mask_;
};

}  // namespace pythia_rt
