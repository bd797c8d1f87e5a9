// Which positions a query sees, the same on every device.
#pragma once

#include <cstdint>

namespace pythia_rt {

// The first of the positions that a query sees which sees none from `end` on: of those before, the
// last `window`, or all where that is 0. Always inline: objects of several ISAs use it, and the
// linker would keep one copy for all.
[[gnu::always_inline]] constexpr int64_t first_seen(int64_t end, int64_t window) {
  return window == 0 || end < window ? 0 : end - window;
}

}  // namespace pythia_rt
