#include "base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif
#if defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace pythia_rt {

namespace {

#if defined(__x86_64__)

constexpr bool has_bits(uint64_t value, uint64_t bits) { return (value & bits) == bits; }

// XCR0: which register files the operating system saves on a context switch.
uint64_t saved_registers() {
  uint32_t low = 0;
  uint32_t high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<uint64_t>(high) << 32) | low;
}

// Linux keeps the AMX tile registers (8 KiB a thread) switched off until a process asks for them.
bool may_use_amx() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

// Leaf 7 says in EAX how many leaves it has beside itself.
bool has_avx_vnni(uint32_t subleaves) {
  constexpr uint32_t kAvxVnni = 1u << 4;
  uint32_t a = 0, b = 0, c = 0, d = 0;
  return subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && has_bits(a, kAvxVnni);
}

uint32_t find_features() {
  uint32_t a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid(1, &a, &b, &c, &d) == 0 || !has_bits(c, bit_OSXSAVE)) return 0;
  constexpr uint64_t kYmm = 0x6, kZmm = 0xe6, kTiles = 0x60000;
  const uint64_t saved = saved_registers();
  uint32_t features = 0;
  if (!has_bits(saved, kYmm)) return 0;
  if (has_bits(c, bit_FMA)) features |= cpu_feature::kFma;
  if (has_bits(c, bit_F16C)) features |= cpu_feature::kF16c;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return features;
  if (has_bits(b, bit_AVX2)) features |= cpu_feature::kAvx2;
  if (has_avx_vnni(a)) features |= cpu_feature::kAvxVnni;
  if (!has_bits(saved, kZmm)) return features;
  if (has_bits(b, bit_AVX512F)) features |= cpu_feature::kAvx512f;
  if (has_bits(b, bit_AVX512BW)) features |= cpu_feature::kAvx512bw;
  if (has_bits(b, bit_AVX512VL)) features |= cpu_feature::kAvx512vl;
  if (has_bits(c, bit_AVX512VNNI)) features |= cpu_feature::kAvx512vnni;
  constexpr uint32_t kAmxTileAndInt8 = (1u << 24) | (1u << 25);
  if (has_bits(d, kAmxTileAndInt8) && has_bits(saved, kTiles) && may_use_amx()) {
    features |= cpu_feature::kAmxInt8;
  }
  return features;
}

#elif defined(__aarch64__)

uint32_t find_features() {
  uint32_t features = 0;
#if defined(__linux__)
  constexpr unsigned long kHwcapDotprod = 1ul << 20;  // HWCAP_ASIMDDP
  constexpr unsigned long kHwcap2I8mm = 1ul << 13;    // HWCAP2_I8MM
  if ((getauxval(AT_HWCAP) & kHwcapDotprod) != 0) features |= cpu_feature::kDotprod;
  if ((getauxval(AT_HWCAP2) & kHwcap2I8mm) != 0) features |= cpu_feature::kI8mm;
#else
  features |= cpu_feature::kDotprod;  // every arm64 machine of the other systems has it
#endif
#if defined(__APPLE__)
  int has_i8mm = 0;
  size_t size = sizeof has_i8mm;
  if (sysctlbyname("hw.optional.arm.FEAT_I8MM", &has_i8mm, &size, nullptr, 0) == 0 &&
      has_i8mm != 0) {
    features |= cpu_feature::kI8mm;
  }
#endif
  return features;
}

#else

uint32_t find_features() { return 0; }

#endif

}  // namespace

uint32_t cpu_features() {
  static const uint32_t features = find_features();
  return features;
}

}  // namespace pythia_rt
