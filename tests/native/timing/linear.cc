// Matrix products.
#include <algorithm>
#include <vector>

#include "base/error.h"
#include "base/rounding.h"
#include "formats/formats.h"
#include "kernels/tasks.h"
#include "timing/activations.h"
#include "timing/workloads.h"

namespace pythia_rt {

namespace {

int64_t total_bytes(const std::vector<PackedPart>& layout, size_t alignment) {
  int64_t total = 0;
  for (const PackedPart& part : layout) {
    total += round_up(static_cast<int64_t>(part.bytes), static_cast<int64_t>(alignment));
  }
  return total;
}

double count_operations(int64_t rows, int64_t columns, int64_t tokens) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(columns) *
         static_cast<double>(tokens);
}

class Linear : public Workload {
 public:
  Linear(const KernelTable& kernels, const PageBuffer& pages, Format format, int64_t rows,
         int64_t columns, int64_t tokens)
      : Workload(static_cast<double>(total_bytes(packed_layout(format, rows, columns), 1)),
                 count_operations(rows, columns, tokens)),
        kernels_(kernels),
        kernel_(kernels.linear[static_cast<int>(format)]),
        in_(tokens, columns),
        quantised_(tokens, columns),
        out_(std::min(tokens, kRowsAtOnce), rows) {
    Matrix matrix;
    matrix.format = format;
    matrix.rows = rows;
    matrix.columns = columns;
    matrix.table = format_table(format);
    const std::vector<PackedPart> layout = packed_layout(format, rows, columns);
    const int64_t bytes = total_bytes(layout, kAlignment);
    const int64_t copies = static_cast<int64_t>(pages.size()) / bytes;
    if (copies < 1) {
      throw_invalid("a matrix of ", bytes, " bytes does not fit a memory of ", pages.size());
    }
    const uint8_t* next = pages.data();
    for (int64_t copy = 0; copy < copies; ++copy) {
      std::vector<const void*> parts;
      for (const PackedPart& part : layout) {
        parts.push_back(next);
        next += round_up(static_cast<int64_t>(part.bytes), kAlignment);
      }
      bind_parts(layout, parts, matrix);
      matrices_.push_back(matrix);
    }
    kernels.quantise(
        {in_.data(), in_.stride(), quantised_.groups(), quantised_.rows(), 0, in_.count()});
  }

 protected:
  void pass(ThreadPool& pool, int64_t index) override {
    const Matrix& matrix = matrices_[static_cast<size_t>(index) % matrices_.size()];
    for (int64_t row = 0; row < in_.count(); row += kRowsAtOnce) {
      multiply(pool, matrix, row, std::min(kRowsAtOnce, in_.count() - row));
    }
  }

 private:
  static constexpr int64_t kAlignment = 64;

  void multiply(ThreadPool& pool, const Matrix& matrix, int64_t row, int64_t count) {
    LinearArguments arguments{};
    arguments.matrix = &matrix;
    arguments.in = in_.data() + row * in_.stride();
    arguments.in_stride = in_.stride();
    const QuantisedRows all = quantised_.rows();
    arguments.quantised = {all.codes + row * all.stride, all.stride,
                           all.scales + row * quantised_.groups(),
                           all.sums + row * quantised_.groups()};
    arguments.out = out_.data();
    arguments.out_stride = out_.stride();
    arguments.epilogue = Epilogue::store;
    arguments.row_end = count;

    const auto panel = static_cast<size_t>(kernels_.linear_panel_bytes(matrix, count));
    panels_.resize(static_cast<size_t>(pool.n_threads()));
    for (AlignedBuffer& buffer : panels_) {
      if (buffer.size() < panel) buffer = AlignedBuffer(panel);
    }
    const Load load{matrix.row_blocks(), 1};
    pool.share({load}, kBlocksTogether, [&](const Piece& piece, int worker) {
      LinearArguments part = arguments;
      part.block_begin = piece.begin;
      part.block_end = piece.end;
      part.panel = panels_[static_cast<size_t>(worker)].as<uint8_t>();
      kernel_(part);
    });
  }

  const KernelTable& kernels_;
  void (*kernel_)(const LinearArguments&);
  ActivationRows in_;
  QuantisedBuffer quantised_;
  ActivationRows out_;
  std::vector<Matrix> matrices_;
  std::vector<AlignedBuffer> panels_;  // one per thread
};

}  // namespace

std::unique_ptr<Workload> linear_workload(const KernelTable& kernels, const PageBuffer& pages,
                                          Format format, int64_t rows, int64_t columns,
                                          int64_t tokens) {
  return std::make_unique<Linear>(kernels, pages, format, rows, columns, tokens);
}

}  // namespace pythia_rt
