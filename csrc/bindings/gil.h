// Python's global interpreter lock, given away while the core computes.
#pragma once

#include <pybind11/pybind11.h>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

#include <chrono>
#include <stdexcept>
#include <thread>

namespace pythia_rt {

// Where a thread that Python left running when it ended stays until the process is gone.
[[noreturn]] inline void sleep_for_ever() {
  for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
}

// Calls function(), which may take the lock. In a thread that Python left running, a daemon,
// CPython before 3.14 answers that with pthread_exit, which unwinds the stack, and in a destructor
// that aborts the process: such a thread sleeps here instead, as 3.14 has it do.
template <typename Function>
void may_take_gil(const Function& function) {
#if defined(__GLIBCXX__)
  try {
    function();
  } catch (abi::__forced_unwind&) {
    sleep_for_ever();
  }
#else
  function();
#endif
}

// Gives the lock away as long as it lives, as pybind11's gil_scoped_release does, whose destructor
// aborts the process in the case above.
class GilRelease {
 public:
  GilRelease() = default;
  ~GilRelease() {
    if (is_left_behind()) sleep_for_ever();
    restore();
  }
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;

  // During long computations: lets Ctrl-C through.
  void check_signals() const {
    // What is thrown frees the locks of the computation, which somebody may still wait for.
    if (is_left_behind()) throw std::runtime_error("Python has ended");
    restore();
    if (PyErr_CheckSignals() != 0) {
      const pybind11::error_already_set error;
      PyEval_SaveThread();
      throw error;
    }
    PyEval_SaveThread();
  }

 private:
  static bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030d0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
  }

  // Who had the lock while Python ended is the thread that ends it, and goes on.
  bool is_left_behind() const { return is_finalizing() && !ends_python_; }

  void restore() const {
    may_take_gil([this] { PyEval_RestoreThread(state_); });
  }

  const bool ends_python_ = is_finalizing();
  PyThreadState* const state_ = PyEval_SaveThread();
};

}  // namespace pythia_rt
