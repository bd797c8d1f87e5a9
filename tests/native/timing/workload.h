// Something to do over and over while a clock runs.
#pragma once

#include <cstdint>

namespace pythia_rt {

class ThreadPool;

class Workload {
 public:
  Workload(double bytes, double operations) : bytes_(bytes), operations_(operations) {}
  virtual ~Workload() = default;
  Workload(const Workload&) = delete;
  Workload& operator=(const Workload&) = delete;

  // Of one pass; what a multiplication and its addition do are two operations. 0: does not count.
  double bytes() const { return bytes_; }
  double operations() const { return operations_; }

  // Passes follow each other until `seconds` are over, one at least; returns the seconds of each.
  double time(ThreadPool& pool, double seconds);

 protected:
  // Pass number `index` of this workload: later ones should not find their data in a cache.
  virtual void pass(ThreadPool& pool, int64_t index) = 0;

 private:
  double bytes_, operations_;
  int64_t next_ = 0;
};

}  // namespace pythia_rt
