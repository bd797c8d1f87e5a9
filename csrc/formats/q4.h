// q4: 4 bits through a table of 16 values, one scale of 8 bits per row and group of 64 columns;
// 4.125 bits per weight.
//
// The table is finer around zero, where weights are dense, and not symmetric: a negative scale
// turns it round.
#pragma once

#include "formats/table_grid.h"

namespace pythia_rt {

// Fitted to trained weights and to normal and Student-t samples, each group scaled as fit_scales
// does: -63 -45 -35 -27 -20 -14 -9 -4 1 6 12 18 25 33 43 56.
inline constexpr uint8_t kQ4Levels[16] = {1,  19, 29, 37, 44, 50, 55,  60,
                                          65, 70, 76, 82, 89, 97, 107, 120};

struct Q4Grid : TableGrid<kQ4Levels> {
  static constexpr const char* kName = "q4";
  static constexpr float kFirstFactor = 0.8f, kLastFactor = 1.05f;
};

using Q4 = Narrow<Q4Grid>;

}  // namespace pythia_rt
