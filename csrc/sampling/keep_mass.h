// The shortest prefix of sorted candidates that is likely enough, found without sorting the others.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "sampling/steps.h"

namespace pythia_rt {

// What places are sorted by first, roughly: the larger its key, the later a candidate comes.
constexpr int kKeyBits = 22;

// place = key << 32 | index of a candidate.
constexpr std::uint32_t index_of(std::uint64_t place) { return static_cast<std::uint32_t>(place); }
constexpr std::uint32_t key_of(std::uint64_t place) {
  return static_cast<std::uint32_t>(place >> 32);
}

// Lists the indices of candidates with weights above `least`, in order. Returns how many.
std::size_t list_places(Candidates& candidates, double least);

// Sorts by keys, and equal ones by index, as many of the n places as the shortest prefix whose
// weights add up to `target` can have, and returns how many; 0 where all of them may not be enough.
std::size_t sort_places(Candidates& candidates, std::size_t n, double target);

// Keeps the shortest prefix in the order of `before` whose probability reaches `mass`, sorted.
// `before` is a total order in which a candidate of smaller distance(candidate) >= 0 never comes
// later. So the result is unique, whatever algorithm found it.
template <class Distance, class Before>
void keep_mass(Candidates& candidates, double mass, Distance distance, Before before) {
  // Beside the likeliest, whose weight is 1, so little is only looked at if all else is kept.
  constexpr double kNegligible = 0x1.0p-60;
  constexpr double kLastKey = (1 << kKeyBits) - 1;
  const double target = mass * weigh(candidates);
  std::size_t n_places = list_places(candidates, kNegligible);
  std::uint64_t* const places = candidates.places.data();
  const Candidate* entries = candidates.entries.data();
  double farthest = 0.0;
  for (std::size_t i = 0; i < n_places; ++i) {
    farthest = std::max(farthest, distance(entries[places[i]]));
  }
  const double scale = farthest > 0.0 ? kLastKey / farthest : 0.0;
  const auto set_keys = [&] {
    for (std::size_t i = 0; i < n_places; ++i) {
      const double key = distance(entries[places[i]]) * scale;  // NaN for infinity * 0
      places[i] |= static_cast<std::uint64_t>(key < kLastKey ? key : kLastKey) << 32;
    }
  };
  set_keys();
  std::size_t n = sort_places(candidates, n_places, target);
  if (n == 0) {
    n_places = list_places(candidates, -1.0);
    set_keys();
    n = sort_places(candidates, n_places, 0.0);
  }

  const auto in_order = [=](std::uint64_t a, std::uint64_t b) {
    return before(entries[index_of(a)], entries[index_of(b)]);
  };
  candidates.sorted.resize(candidates.entries.size());
  candidates.size = 0;
  double reached = 0.0;
  for (std::size_t begin = 0, end; begin < n; begin = end) {
    for (end = begin + 1; end < n && key_of(places[end]) == key_of(places[begin]);) ++end;
    if (!std::is_sorted(places + begin, places + end, in_order)) {
      std::sort(places + begin, places + end, in_order);
    }
    for (std::size_t i = begin; i < end; ++i) {
      candidates.sorted[candidates.size++] = entries[index_of(places[i])];
      reached += candidates.weights[index_of(places[i])];
      if (reached >= target) {
        n = end;
        break;
      }
    }
  }
  candidates.entries.swap(candidates.sorted);
}

}  // namespace pythia_rt
