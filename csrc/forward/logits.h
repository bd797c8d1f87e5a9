// What callers get from a pass: logits of the rows that they want, and scores of tokens.
#pragma once

#include <cstdint>
#include <vector>

#include "forward/chunk.h"
#include "forward/probe.h"
#include "forward/workspace.h"
#include "model/spec.h"
#include "model/weights.h"

namespace pythia_rt {

class Logits {
 public:
  Logits(const Spec& spec, const Weights& weights) : spec_(spec), weights_(weights) {}

  // Before a pass: which rows' logits are wanted, and where.
  void plan(const std::vector<Chunk>& chunks);

  // As part of a pass that comes again (Batch::repeats): the logits, which are those of all rows or
  // of none.
  void record(const Workspace& last) const;

  // As part of a pass with a probe: the final norm of all rows, if that is what it wants to see.
  void watch(const Workspace& last, Probe& probe);

  // After a pass, of which `last` had the last layers: everything goes where the plan says.
  void compute(const Workspace& last);
  void compute_terms(const Workspace& last, const std::vector<Chunk>& chunks);

 private:
  void gather(const Workspace& last, const int64_t* rows, Rows out) const;
  void run_head(const Workspace& last, Rows hidden) const;
  bool needs_norm() const { return spec_.final_norm && !is_normed_; }

  const Spec& spec_;
  const Weights& weights_;

  // Lists of the pass at hand; kept, so that a token allocates nothing.
  std::vector<int64_t> wanted_rows_;  // of x, whose logits somebody wants
  std::vector<float*> wanted_outs_;   // where they go
  std::vector<int32_t> targets_;      // tokens whose terms somebody wants
  std::vector<SoftmaxTerm> terms_;    // of the targets
  bool is_normed_ = false;            // by watch(), into a buffer that the layers are done with
};

}  // namespace pythia_rt
