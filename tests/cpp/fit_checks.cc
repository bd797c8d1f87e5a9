// The search for the scales of a group of a format below 8 bits.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "formats/formats.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

struct Group {
  Guarded<float> values{kColumnGroup * kRowBlock};
  Guarded<float> importance{kColumnGroup};
};

// The squared error of one row when each value takes the nearest level times `scale`.
double squared_error(const Group& group, int64_t row, double scale,
                     const std::vector<int>& levels) {
  double sum = 0;
  for (int64_t i = 0; i < kColumnGroup; ++i) {
    double least = HUGE_VAL;
    for (const int level : levels) {
      least = std::min(least, std::fabs(group.values[i * kRowBlock + row] - level * scale));
    }
    sum += static_cast<double>(group.importance[i]) * least * least;
  }
  return sum;
}

// No worse than the largest value at either end of the grid, which is the obvious choice.
std::string compare_with_ends(const Group& group, const float* scales,
                              const std::vector<int>& levels) {
  for (int64_t row = 0; row < kRowBlock; ++row) {
    double largest = 0;
    for (int64_t i = row; i < group.values.size(); i += kRowBlock) {
      largest = std::fabs(group.values[i]) > std::fabs(largest) ? group.values[i] : largest;
    }
    const double found = squared_error(group, row, scales[row], levels);
    for (const int end : {levels.front(), levels.back()}) {
      const double obvious = squared_error(group, row, largest / end, levels);
      if (!(found <= 1.03 * obvious)) {
        return text("row ", row, " has a squared error of ", found, ", the end ", end, " ",
                    obvious);
      }
    }
  }
  return "";
}

void check_fit(Format format, const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  std::string equality, truth;
  Random random(10);
  const uint8_t* grid = format_table(format);
  const std::vector<int> all = levels(format);
  const Guarded<uint8_t> stored(grid == nullptr ? std::vector<uint8_t>(16)
                                                : std::vector<uint8_t>(grid, grid + 16));
  for (int index = 0; index < 40; ++index) {
    Group group;
    const float magnitude = std::ldexp(1.0f, static_cast<int>(random.integer(-20, 10)));
    for (int64_t i = 0; i < group.values.size(); ++i) {
      const bool is_outlier = i / kRowBlock == index && i % 3 == 0;
      group.values[i] =
          i % kRowBlock == 7 ? 0.0f : magnitude * random.normal() * (is_outlier ? 30 : 1);
    }
    const bool weighted = index % 2 == 1;
    for (int64_t i = 0; i < kColumnGroup; ++i) {
      group.importance[i] = weighted ? random.uniform() : 1.0f;
    }
    const Guarded<float> found(kRowBlock), expected(kRowBlock);
    FitArguments arguments{};
    arguments.values = group.values.data();
    arguments.importance = weighted ? group.importance.data() : nullptr;
    arguments.table = grid == nullptr ? nullptr : stored.data();
    arguments.offset = grid == nullptr ? -all.front() : grid[0] - all.front();
    arguments.first_factor = 0.9f;
    arguments.last_factor = 1.04f;
    arguments.scales = found.data();
    table.fit_scales(arguments);
    arguments.scales = expected.data();
    scalar.fit_scales(arguments);
    checks.fold(found.data(), kRowBlock);
    if (equality.empty()) equality = difference(found.data(), expected.data(), kRowBlock);
    if (truth.empty() && !weighted) truth = compare_with_ends(group, found.data(), all);
  }
  checks.report(text("fit_scales for ", format_name(format), " equals scalar"), equality);
  checks.report(text("fit_scales for ", format_name(format), " finds good scales"), truth);
}

}  // namespace

void check_fit_scales(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  for (const Format format : {Format::q4, Format::q5, Format::q6}) {
    check_fit(format, table, scalar, checks);
  }
}

}  // namespace pythia_rt::conformance
