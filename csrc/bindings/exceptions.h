// Python's exceptions made of the core's.
#pragma once

#include <pybind11/pybind11.h>

#include <exception>
#include <stdexcept>

namespace pythia_rt {

// What Python would raise for it: its own exception where it came from there.
inline pybind11::object exception_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const pybind11::error_already_set& raised) {
    return raised.value();
  } catch (const std::invalid_argument& invalid) {
    return pybind11::handle(PyExc_ValueError)(invalid.what());
  } catch (const std::bad_alloc& missing) {
    return pybind11::handle(PyExc_MemoryError)(missing.what());
  } catch (const std::exception& failed) {
    return pybind11::handle(PyExc_RuntimeError)(failed.what());
  }
}

}  // namespace pythia_rt
