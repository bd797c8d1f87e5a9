// Errors are exceptions that carry one sentence. Nothing in the library prints or aborts.
#pragma once

#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

namespace pythia_rt {

// Joins its arguments into one string: text("layer ", 3, " is missing").
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// The caller asked for something impossible: ValueError in Python.
template <typename... Parts>
[[noreturn]] void throw_invalid(const Parts&... parts) {
  throw std::invalid_argument(text(parts...));
}

// The machine could not do what was asked: RuntimeError in Python.
template <typename... Parts>
[[noreturn]] void throw_failed(const Parts&... parts) {
  throw std::runtime_error(text(parts...));
}

// There is no room for what was asked: MemoryError in Python.
class NoRoom : public std::bad_alloc {
 public:
  explicit NoRoom(std::string sentence) : sentence_(std::move(sentence)) {}
  const char* what() const noexcept override { return sentence_.c_str(); }

 private:
  std::string sentence_;
};

}  // namespace pythia_rt
