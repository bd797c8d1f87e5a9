// What the processor can do and the operating system lets us use.
#pragma once

#include <cstdint>

namespace pythia_rt {

// One bit per feature that an entry of cmake/isas.cmake may ask for. `kAny` asks for nothing.
namespace cpu_feature {
enum : uint32_t {
  kAny = 0,
  kAvx2 = 1u << 0,
  kFma = 1u << 1,
  kF16c = 1u << 2,
  kAvx512f = 1u << 3,
  kAvx512bw = 1u << 4,
  kAvx512vl = 1u << 5,
  kAvx512vnni = 1u << 6,
  kAmxInt8 = 1u << 7,
  kDotprod = 1u << 8,
  kAvxVnni = 1u << 9,
  kI8mm = 1u << 10,
};
}  // namespace cpu_feature

// The union of the features at hand, found once. A feature counts only where the operating system
// saves its registers; for AMX, where this process has been allowed to use them.
uint32_t cpu_features();

}  // namespace pythia_rt
