// Asynchronous copies of the running thread.
#include "emulator/block.h"

namespace pythia_rt::cuda::emulator {

namespace {

PendingCopies& own_copies() {
  return block.copies[static_cast<size_t>(block.index_of(block.running()))];
}

}  // namespace

bool land_now() { return is_order_random() && random_below(2) == 0; }

void push_copy(void* to, const void* from, const char* site) {
  PendingCopies& own = own_copies();
  if (own.end - own.first == kMostCopies) fail("more than 64 asynchronous copies under way", site);
  own.copies[own.end++ % kMostCopies] = {to, from, own.group};
}

void commit_copies() { own_copies().group += 1; }

bool pop_copy(int pending, void** to, const void** from) {
  PendingCopies& own = own_copies();
  if (own.first == own.end) return false;
  const PendingCopies::Copy& copy = own.copies[own.first % kMostCopies];
  if (copy.group >= own.group - pending) return false;
  *to = copy.to;
  *from = copy.from;
  own.first += 1;
  return true;
}

}  // namespace pythia_rt::cuda::emulator
