// Whether everything in a list is there once.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "base/error.h"

namespace pythia_rt {

// Throws std::invalid_argument for a batch that names the same `what` twice.
template <typename T>
void check_distinct(std::vector<T*> batch, const char* what) {
  std::sort(batch.begin(), batch.end(), std::less<T*>());
  if (std::adjacent_find(batch.begin(), batch.end()) != batch.end()) {
    throw_invalid("a batch names the same ", what, " twice");
  }
}

}  // namespace pythia_rt
