// How long sums are cut, the same on every device: part of why results are the same to the bit.
#pragma once

#include <cstdint>

namespace pythia_rt {

// Logits that a softmax takes at a time: 256 rows of so many stay in a second-level cache.
constexpr int64_t kSoftmaxRun = 512;

// Positions that attention takes at a time. Blocks of them can be worked on side by side, and are
// joined in order (kernels/attention.inl).
constexpr int64_t kAttentionBlock = 128;

}  // namespace pythia_rt
