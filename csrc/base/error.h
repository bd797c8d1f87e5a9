// Errors are exceptions that carry one sentence. Nothing in the library prints or aborts.
#pragma once

#include <cstdio>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

namespace pythia_rt {

namespace joining {

inline void append(std::string& to, std::string_view part) { to += part; }
inline void append(std::string& to, char part) { to += part; }

// As streams write numbers. No streams in what ships: where a process has two copies of the C++
// library, each mixes up the other's (bench/results/h200).
template <typename Number, typename = std::enable_if_t<std::is_arithmetic_v<Number>>>
void append(std::string& to, Number number) {
  if constexpr (std::is_floating_point_v<Number>) {
    char digits[32];
    std::snprintf(digits, sizeof digits, "%g", static_cast<double>(number));
    to += digits;
  } else {
    to += std::to_string(number);
  }
}

}  // namespace joining

// Joins its arguments into one string: text("layer ", 3, " is missing").
template <typename... Parts>
std::string text(const Parts&... parts) {
  std::string joined;
  (joining::append(joined, parts), ...);
  return joined;
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
