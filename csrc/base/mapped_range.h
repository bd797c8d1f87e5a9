// Memory mapped from a file that somebody may cut short meanwhile.
#pragma once

#include <cstddef>

namespace pythia_rt {

// A page of a mapping whose file no longer has it, or whose disk no longer gives it, answers a read
// with the signal SIGBUS, which ends the process. As long as this object lives, such a read inside
// its range yields zeros instead, and the range is known to be damaged: ask after the work, before
// its result is believed. Reads outside of all ranges are left to whoever handled the signal
// before. Where there is no SIGBUS this does nothing.
class MappedRange {
 public:
  MappedRange(const void* data, size_t size);
  ~MappedRange();
  MappedRange(const MappedRange&) = delete;
  MappedRange& operator=(const MappedRange&) = delete;

  bool is_damaged() const;

  struct Entry;

 private:
  Entry* entry_;
};

// Whether any byte of [data, data + size) lies in a damaged range. Costs one load while there is no
// damage at all.
bool is_damaged(const void* data, size_t size);

}  // namespace pythia_rt
