// Random numbers that are the same on every machine and with every standard library (splitmix64).
#pragma once

#include <cstdint>

namespace pythia_rt::conformance {

class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}

  uint64_t bits() {
    state_ += 0x9e3779b97f4a7c15u;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // Uniform in [low, high], both included.
  int64_t integer(int64_t low, int64_t high) {
    return low + static_cast<int64_t>(bits() % static_cast<uint64_t>(high - low + 1));
  }
  // Uniform in [0, 1).
  float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }
  // Roughly normal with variance 1: the sum of twelve uniform values, less its mean.
  float normal() {
    float sum = -6.0f;
    for (int i = 0; i < 12; ++i) sum += uniform();
    return sum;
  }

 private:
  uint64_t state_;
};

}  // namespace pythia_rt::conformance
