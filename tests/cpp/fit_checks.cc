// The search for the scales of 4-bit groups.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/formats.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

// The squared error of one row's group when each value takes the nearest level times `scale`.
double squared_error(const Guarded<float>& values, int64_t row, double scale,
                     const uint8_t* table) {
  double sum = 0;
  for (int64_t i = row; i < values.size(); i += kRowBlock) {
    double least = HUGE_VAL;
    for (int code = 0; code < 16; ++code) {
      least = std::min(least, std::fabs(values[i] - (table[code] - 64) * scale));
    }
    sum += least * least;
  }
  return sum;
}

// No worse than the largest value at either end of the table, which is the obvious choice.
std::string compare_with_ends(const Guarded<float>& values, const float* scales,
                              const uint8_t* table) {
  for (int64_t row = 0; row < kRowBlock; ++row) {
    double largest = 0;
    for (int64_t i = row; i < values.size(); i += kRowBlock) {
      largest = std::fabs(values[i]) > std::fabs(largest) ? values[i] : largest;
    }
    const double found = squared_error(values, row, scales[row], table);
    for (const int end : {table[0] - 64, table[15] - 64}) {
      const double obvious = squared_error(values, row, largest / end, table);
      if (!(found <= 1.02 * obvious)) {
        return text("row ", row, " has a squared error of ", found, ", the end ", end, " ",
                    obvious);
      }
    }
  }
  return "";
}

}  // namespace

void check_fit_scales(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  std::string equality, truth;
  Random random(10);
  const Guarded<uint8_t> levels(
      std::vector<uint8_t>(format_table(Format::q4), format_table(Format::q4) + 16));
  for (int index = 0; index < 40; ++index) {
    Guarded<float> values(kColumnGroup * kRowBlock);
    const float magnitude = std::ldexp(1.0f, static_cast<int>(random.integer(-20, 10)));
    for (int64_t i = 0; i < values.size(); ++i) {
      const bool is_outlier = i / kRowBlock == index && i % 3 == 0;
      values[i] = i % kRowBlock == 7 ? 0.0f : magnitude * random.normal() * (is_outlier ? 30 : 1);
    }
    const Guarded<float> found(kRowBlock), expected(kRowBlock);
    table.fit_scales({values.data(), levels.data(), found.data()});
    scalar.fit_scales({values.data(), levels.data(), expected.data()});
    checks.fold(found.data(), kRowBlock);
    if (equality.empty()) equality = difference(found.data(), expected.data(), kRowBlock);
    if (truth.empty()) truth = compare_with_ends(values, found.data(), levels.data());
  }
  checks.report("fit_scales equals scalar", equality);
  checks.report("fit_scales finds good scales", truth);
}

}  // namespace pythia_rt::conformance
