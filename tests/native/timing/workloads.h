// The workloads there are: the machine's limits, and the kernels as the CPU backend calls them.
//
// Memory is borrowed from a PageBuffer that the caller keeps, and must be large enough; shapes and
// sizes that make no sense throw std::invalid_argument.
#pragma once

#include <memory>

#include "formats/kv_head.h"
#include "formats/matrix.h"
#include "kernels/table.h"
#include "limits/page_buffer.h"
#include "limits/table.h"
#include "timing/workload.h"

namespace pythia_rt {

// Reads the whole buffer once.
std::unique_ptr<Workload> read_workload(const LimitTable& limits, const PageBuffer& pages);

// About a millisecond of multiplications, on scalar some fifty.
std::unique_ptr<Workload> multiply_workload(const MultiplyLoop& loop);

// in [tokens][columns] times a matrix [rows, columns], kRowsAtOnce tokens at a time. Passes go
// through as many matrices as the buffer holds, in turn, like the layers of a model.
constexpr int64_t kRowsAtOnce = 256;  // as the decoder does
std::unique_ptr<Workload> linear_workload(const KernelTable& kernels, const PageBuffer& pages,
                                          Format format, int64_t rows, int64_t columns,
                                          int64_t tokens);

// The last `tokens` of `positions` attend to them, in each of `heads` heads. Passes go through as
// many caches as the buffer holds.
struct AttentionShape {
  int64_t heads, head_dim, tokens, positions;
};
std::unique_ptr<Workload> attention_workload(const KernelTable& kernels, const PageBuffer& pages,
                                             KvFormat format, const AttentionShape& shape);

// Activations [tokens][columns], which stay in a cache: bytes read and written.
std::unique_ptr<Workload> norm_workload(const KernelTable& kernels, int64_t tokens,
                                        int64_t columns);
std::unique_ptr<Workload> quantise_workload(const KernelTable& kernels, int64_t tokens,
                                            int64_t columns);

}  // namespace pythia_rt
