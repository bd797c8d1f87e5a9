#include "sampling/keep_mass.h"

#include <array>
#include <utility>

namespace pythia_rt {
namespace {

// Half a key: places are sorted by its lower digit first, then by its upper one.
constexpr int kDigitBits = kKeyBits / 2;
constexpr std::size_t kDigits = std::size_t{1} << kDigitBits;
static_assert(kKeyBits % 2 == 0);

// By how much a sum in another order may be off: 2^-53 for each of less than 2^31 candidates.
constexpr double kCautious = 1.0 + 0x1.0p-20;

using Counts = std::array<std::uint32_t, kDigits>;

constexpr std::size_t lower_digit(std::uint64_t place) { return key_of(place) % kDigits; }
constexpr std::size_t upper_digit(std::uint64_t place) { return key_of(place) / kDigits; }

// Counts become the places where the first of each digit goes.
void add_up(Counts& counts) {
  std::uint32_t sum = 0;
  for (std::uint32_t& count : counts) sum += std::exchange(count, sum);
}

// Drops what comes after the last upper digit that the prefix may have. Returns how many are left.
std::size_t drop_rest(const double* weights, std::uint64_t* places, std::size_t n, double target) {
  std::array<double, kDigits> masses{};
  for (std::size_t i = 0; i < n; ++i)
    masses[upper_digit(places[i])] += weights[index_of(places[i])];
  std::size_t last = 0;
  double reached = masses[0];
  while (reached < target * kCautious) {
    if (++last == kDigits) return 0;
    reached += masses[last];
  }
  std::size_t n_left = 0;
  for (std::size_t i = 0; i < n; ++i) {  // a branch would be hard to predict
    places[n_left] = places[i];
    n_left += upper_digit(places[i]) <= last;
  }
  return n_left;
}

}  // namespace

std::size_t list_places(Candidates& candidates, double least) {
  candidates.places.resize(candidates.entries.size());
  const double* const weights = candidates.weights.data();
  std::uint64_t* const places = candidates.places.data();
  std::size_t n = 0;
  for (std::size_t i = 0; i < candidates.size; ++i) {
    places[n] = i;
    n += weights[i] > least;
  }
  return n;
}

std::size_t sort_places(Candidates& candidates, std::size_t n, double target) {
  std::uint64_t* const places = candidates.places.data();
  if (target > 0.0) n = drop_rest(candidates.weights.data(), places, n, target);
  candidates.half_sorted.resize(candidates.entries.size());
  std::uint64_t* const half_sorted = candidates.half_sorted.data();
  Counts lower{}, upper{};
  for (std::size_t i = 0; i < n; ++i) {
    ++lower[lower_digit(places[i])];
    ++upper[upper_digit(places[i])];
  }
  add_up(lower);
  add_up(upper);
  for (std::size_t i = 0; i < n; ++i) half_sorted[lower[lower_digit(places[i])]++] = places[i];
  for (std::size_t i = 0; i < n; ++i) places[upper[upper_digit(half_sorted[i])]++] = half_sorted[i];
  return n;
}

}  // namespace pythia_rt
