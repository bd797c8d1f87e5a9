// Attention over a cache.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "base/rounding.h"
#include "formats/kv_formats.h"
#include "kernels/tasks.h"
#include "timing/activations.h"
#include "timing/workloads.h"

namespace pythia_rt {

namespace {

// What the positions take of their pages.
double cache_bytes(KvFormat format, const AttentionShape& shape) {
  const KvSizes sizes = kv_sizes(format, shape.head_dim, round_up(shape.positions, 16));
  return static_cast<double>(shape.heads * sizes.total());
}

// Scores and mixing: 2 * 2 * head_dim for each position that a query sees.
double count_operations(const AttentionShape& shape) {
  const auto first = static_cast<double>(shape.positions - shape.tokens + 1);
  const auto seen = (first + static_cast<double>(shape.positions)) / 2;
  return 4.0 * static_cast<double>(shape.heads * shape.head_dim * shape.tokens) * seen;
}

const AttentionShape& checked(const AttentionShape& shape) {
  constexpr int64_t kMost = int64_t{1} << 20;
  for (const int64_t size : {shape.heads, shape.head_dim, shape.tokens, shape.positions}) {
    if (size < 1 || size > kMost) throw_invalid("attention cannot have a size of ", size);
  }
  if (shape.tokens > shape.positions) throw_invalid("more tokens than positions");
  return shape;
}

class Attention : public Workload {
 public:
  Attention(const KernelTable& kernels, const PageBuffer& pages, KvFormat format,
            const AttentionShape& shape)
      : Workload(cache_bytes(format, shape), count_operations(shape)),
        kernel_(kernels.attention[static_cast<int>(format)]),
        shape_(shape),
        queries_(shape.tokens, shape.heads * shape.head_dim),
        out_(shape.tokens, shape.heads * shape.head_dim) {
    layout_ = page_layout(format, shape.head_dim, shape.heads, 1);
    n_pages_ = divide_up(shape.positions, kPagePositions);
    n_caches_ = static_cast<int64_t>(pages.size()) / layout_.bytes() / n_pages_;
    if (n_caches_ < 1) {
      throw_invalid("a cache of ", layout_.bytes() * n_pages_, " bytes does not fit a memory of ",
                    pages.size());
    }
    auto* memory = reinterpret_cast<std::byte*>(pages.data());
    for (int64_t i = 0; i < n_caches_ * n_pages_; ++i) {
      pages_.push_back(memory + i * layout_.bytes());
    }
  }

 protected:
  void pass(ThreadPool& pool, int64_t index) override {
    const KvPages cache{pages_.data() + index % n_caches_ * n_pages_, layout_};
    const auto scratch = static_cast<size_t>(attention_scratch(shape_.head_dim)) * sizeof(float);
    scratch_.resize(static_cast<size_t>(pool.n_threads()));
    for (AlignedBuffer& buffer : scratch_) {
      if (buffer.size() < scratch) buffer = AlignedBuffer(scratch);
    }
    pool.run(
        divide_up(shape_.tokens, kQueriesTogether) * shape_.heads, [&](int64_t task, int worker) {
          const int64_t head = task % shape_.heads, row = task / shape_.heads * kQueriesTogether;
          AttentionArguments arguments{};
          arguments.queries = queries_.data() + head * shape_.head_dim;
          arguments.query_stride = queries_.stride();
          arguments.cache = cache.head(0, head);
          arguments.head_dim = shape_.head_dim;
          arguments.group = 1;
          arguments.first_position = shape_.positions - shape_.tokens;
          arguments.row_begin = row;
          arguments.row_end = std::min(shape_.tokens, row + kQueriesTogether);
          arguments.scale = 1.0f / std::sqrt(static_cast<float>(shape_.head_dim));
          arguments.scratch = scratch_[static_cast<size_t>(worker)].as<float>();
          arguments.out = out_.data() + head * shape_.head_dim;
          arguments.out_stride = out_.stride();
          kernel_(arguments);
        });
  }

 private:
  void (*kernel_)(const AttentionArguments&);
  AttentionShape shape_;
  ActivationRows queries_, out_;
  PageLayout layout_;
  int64_t n_pages_, n_caches_;
  std::vector<std::byte*> pages_;       // of all caches
  std::vector<AlignedBuffer> scratch_;  // one per thread
};

}  // namespace

std::unique_ptr<Workload> attention_workload(const KernelTable& kernels, const PageBuffer& pages,
                                             KvFormat format, const AttentionShape& shape) {
  return std::make_unique<Attention>(kernels, pages, format, checked(shape));
}

}  // namespace pythia_rt
