#include "emulator/products.h"

#include <cstring>

namespace pythia_rt::cuda::emulator {

namespace {

// Four 8-bit integers of a register, the lowest first in memory too.
void unpack(unsigned word, int8_t* out) { std::memcpy(out, &word, 4); }

template <int kSteps>
unsigned dot(const int8_t (&a)[kSteps], const int8_t (&b)[kSteps]) {
  int sum = 0;
  for (int k = 0; k < kSteps; ++k) sum += a[k] * b[k];
  return static_cast<unsigned>(sum);
}

void add(int& d, unsigned value) { d = static_cast<int>(static_cast<unsigned>(d) + value); }

}  // namespace

void multiply_m16n8k32(MmaFragment* const (&fragments)[32]) {
  int8_t rows[16][32], columns[8][32];
  for (int lane = 0; lane < 32; ++lane) {
    const MmaFragment& fragment = *fragments[lane];
    const int g = lane / 4, q = lane % 4;
    for (int half = 0; half < 2; ++half) {
      unpack(fragment.a[2 * half], &rows[g][16 * half + 4 * q]);
      unpack(fragment.a[2 * half + 1], &rows[g + 8][16 * half + 4 * q]);
      unpack(fragment.b[half], &columns[g][16 * half + 4 * q]);
    }
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 4; ++i) {
      add(fragments[lane]->d[i], dot(rows[g + 8 * (i / 2)], columns[2 * q + i % 2]));
    }
  }
}

void multiply_m8n8k16(MmaFragment* const (&fragments)[32]) {
  int8_t rows[8][16], columns[8][16];
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, q = lane % 4;
    unpack(fragments[lane]->a[0], &rows[g][4 * q]);
    unpack(fragments[lane]->b[0], &columns[g][4 * q]);
  }
  for (int lane = 0; lane < 32; ++lane) {
    const int g = lane / 4, q = lane % 4;
    for (int i = 0; i < 2; ++i) add(fragments[lane]->d[i], dot(rows[g], columns[2 * q + i]));
  }
}

}  // namespace pythia_rt::cuda::emulator
