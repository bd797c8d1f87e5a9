// What a warp's tensor core does.
#pragma once

#include "emulator/scheduler.h"

namespace pythia_rt::cuda::emulator {

// d += a * b of signed 8-bit integers, wrapping; one fragment for each lane.
void multiply_m16n8k32(MmaFragment* const (&fragments)[32]);
void multiply_m8n8k16(MmaFragment* const (&fragments)[32]);

}  // namespace pythia_rt::cuda::emulator
