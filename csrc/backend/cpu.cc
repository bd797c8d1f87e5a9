#include "backend/cpu.h"

#include <algorithm>
#include <cmath>

#include "backend/host_memory.h"
#include "base/rounding.h"
#include "base/window.h"
#include "formats/formats.h"
#include "kernels/tasks.h"

namespace pythia_rt {

namespace {

// Outputs of a gated product that are there at once: they do not leave the second-level cache.
constexpr int64_t kGatedValues = 16 * 1024;

// Queries of attention that still share loads of keys and values.
constexpr int64_t kFewQueries = 4;

// How many rows before it is rotated a prompt's row is asked for.
constexpr int64_t kRowsAhead = 8;

// A matrix unit reads whole tiles of 16 rows (kernels/table.h).
constexpr int64_t kRowPadding = 16;

class CpuBackend : public HostBackend {
 public:
  CpuBackend(const KernelTable& kernels, int n_threads)
      : kernels_(kernels), pool_(n_threads), workers_(static_cast<size_t>(n_threads)) {}

  const char* device() const override { return "cpu"; }
  const char* isa() const override { return kernels_.isa; }
  int n_threads() const override { return pool_.n_threads(); }

  void each(int64_t n, FunctionRef<void(int64_t index)> task) override {
    pool_.run(n, [&](int64_t index, int /*worker*/) { task(index); });
  }

  void check_heads(const HeadLayout& /*heads*/) const override {}

  void pass(const Batch& batch, FunctionRef<void()> work) override {
    batch_ = &batch;
    work();
  }

  void embed(const Matrix* embedding, const float* positions, Rows out) override {
    const int32_t* tokens = batch_->tokens.data();
    const Epilogue epilogue = embedding == nullptr ? Epilogue::store : Epilogue::add;
    each_row(pool_, out.count, out.width, [&](int64_t begin, int64_t end) {
      if (embedding != nullptr) {
        for (int64_t i = begin; i < end; ++i) unpack_row(*embedding, tokens[i], out.row(i));
      }
      if (positions == nullptr) return;
      for (const SequenceRows& sequence : batch_->sequences) {
        const int64_t first = std::max(begin, sequence.first_row);
        const int64_t last = std::min(end, sequence.first_row + sequence.count);
        if (first >= last) continue;
        const int64_t position = sequence.first_position + first - sequence.first_row;
        kernels_.finish({positions + position * out.width, out.width, out.row(first), out.stride,
                         out.width, epilogue, 0, last - first});
      }
    });
  }

  void norm(const NormParameters& parameters, Rows in, Rows out) override {
    const auto kernel = parameters.centres ? kernels_.layer_norm : kernels_.rms_norm;
    each_row(pool_, in.count, in.width, [&](int64_t begin, int64_t end) {
      kernel({in.data, parameters.weight, parameters.bias, out.data, in.width, in.stride,
              parameters.epsilon, begin, end});
    });
  }

  void norm_pair(Rows in, const Norm& first, const Norm& second) override {
    norm(first.parameters, in, first.out);
    norm(second.parameters, in, second.out);
  }

  void norm_parts(const NormParameters& parameters, int64_t n_parts, Rows rows) override {
    each_row(pool_, rows.count, rows.width, [&](int64_t begin, int64_t end) {
      kernels_.norm_parts({rows.data, parameters.weight, parameters.bias, n_parts,
                           rows.width / n_parts, rows.stride, parameters.epsilon, begin, end});
    });
  }

  void linear(const Product& product) override {
    const LinearArguments arguments = prepare(product, first_input_);
    pool_.share({load(product)}, kBlocksTogether, [&](const Piece& piece, int worker) {
      multiply(product, arguments, piece.begin, piece.end, worker);
    });
  }

  void linear_pair(const Product& first, const Product& second) override {
    const LinearArguments a = prepare(first, first_input_);
    // Inputs that are the same rows are quantised once.
    const bool share = first.in.data == second.in.data && a.quantised.codes != nullptr;
    const LinearArguments b = share ? prepare(second, a.quantised) : prepare(second, second_input_);
    if (first.out.data == second.out.data) {
      // Each block of outputs gets both products, in order.
      pool_.share({load(first)}, kBlocksTogether, [&](const Piece& piece, int worker) {
        multiply(first, a, piece.begin, piece.end, worker);
        multiply(second, b, piece.begin, piece.end, worker);
      });
      return;
    }
    pool_.share({load(first), load(second)}, kBlocksTogether, [&](const Piece& piece, int worker) {
      const bool is_first = piece.load == 0;
      multiply(is_first ? first : second, is_first ? a : b, piece.begin, piece.end, worker);
    });
  }

  void finish(Epilogue epilogue, Rows in, Rows out) override {
    each_row(pool_, in.count, in.width, [&](int64_t begin, int64_t end) {
      kernels_.finish({in.data, in.stride, out.data, out.stride, in.width, epilogue, begin, end});
    });
  }

  void finish_gated(Epilogue epilogue, Rows in, Rows out) override {
    each_row(pool_, in.count, in.width, [&](int64_t begin, int64_t end) {
      kernels_.finish_gated(
          {in.data, in.stride, out.data, out.stride, out.width, epilogue, begin, end});
    });
  }

  // A task is one head of keys and values of one sequence and some of the queries that share it, of
  // all its heads and positions. The tasks of a head follow each other, so that its keys and values
  // stay in a cache.
  void attention(const HeadLayout& heads, const Scoring& scoring, int64_t layer, Rows qkv,
                 Rows out) override {
    tasks_.clear();
    const int64_t together = queries_together(heads);
    for (const SequenceRows& sequence : batch_->sequences) {
      const int64_t queries = sequence.count * heads.group();
      const bool appends = sequence.count == 1 && queries <= together;
      if (!appends) append_rows(heads, layer, qkv, sequence);
      for (int64_t kv_head = 0; kv_head < heads.n_kv_heads; ++kv_head) {
        const PagedHead cache = sequence.cache.head(layer, kv_head);
        for (int64_t first = 0; first < queries; first += together) {
          const int64_t end = std::min(queries, first + together);
          tasks_.push_back({&sequence, kv_head, cache, first, end, appends});
        }
      }
    }
    pool_.share({{static_cast<int64_t>(tasks_.size()), 1}}, 1, [&](const Piece& piece, int worker) {
      float* attention = scratch(worker).attention.get<float>(attention_scratch(heads.head_dim));
      ask_for_place(heads, tasks_[static_cast<size_t>(piece.begin)]);
      for (int64_t i = piece.begin; i < piece.end; ++i) {
        const AttentionTask& task = tasks_[static_cast<size_t>(i)];
        const AttentionTask* next = &task == &tasks_.back() ? nullptr : &task + 1;
        if (next != nullptr) ask_for_place(heads, *next);
        if (task.appends) rotate_and_append(heads, qkv, task, 0);
        attend(heads, scoring, qkv, out, task, next, attention);
      }
    });
  }

  // Rows of logits are long: copied by one thread they take longer than some layers.
  void read_rows(Rows in, float* const* outs) override {
    each_row(pool_, in.count, in.width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) std::copy_n(in.row(i), in.width, outs[i]);
    });
  }

  void on_host(Rows rows, bool /*writes*/,
               FunctionRef<void(Rows host, int64_t begin, int64_t end)> work) override {
    each_row(pool_, rows.count, rows.width,
             [&](int64_t begin, int64_t end) { work(rows, begin, end); });
  }

  // A task is one run of the vocabulary for all rows: its logits do not leave the cache.
  void score(const Matrix& head, Rows in, const int32_t* targets, SoftmaxTerm* out) override {
    constexpr int64_t kStride = kSoftmaxRun + 16;  // an odd number of cache lines
    const LinearArguments arguments = prepare({&head, in, {}, Epilogue::store}, first_input_);
    const int64_t n_runs = divide_up(head.rows, kSoftmaxRun);
    float* largest = softmax_runs_.get<float>(2 * in.count * n_runs);  // [rows][n_runs]
    float* sums = largest + in.count * n_runs;
    constexpr int64_t kBlocks = kSoftmaxRun / kRowBlock;  // of a run
    pool_.run(n_runs, [&](int64_t run, int worker) {
      LinearArguments part = arguments;
      part.out = scratch(worker).logits.get<float>(in.count * kStride);
      part.out_stride = kStride;
      part.out_block = run * kBlocks;
      multiply(part, part.out_block, std::min(part.out_block + kBlocks, head.row_blocks()), worker);
      const int64_t begin = run * kSoftmaxRun;
      const int64_t n = std::min(kSoftmaxRun, head.rows - begin);
      for (int64_t i = 0; i < in.count; ++i) {
        const float* logits = part.out + i * kStride;
        const int64_t index = i * n_runs + run;
        kernels_.softmax_run(logits, n, largest + index, sums + index);
        if (targets[i] / kSoftmaxRun == run) out[i].logit = logits[targets[i] - begin];
      }
    });
    for (int64_t i = 0; i < in.count; ++i) {
      kernels_.softmax_merge(largest + i * n_runs, sums + i * n_runs, n_runs, &out[i].largest,
                             &out[i].sum);
    }
  }

 private:
  // What one thread needs for itself.
  struct Worker {
    Scratch panel;
    Scratch attention;
    Scratch logits;  // of one run of a softmax
    Scratch gated;   // gate and up of some blocks
  };
  Worker& scratch(int worker) { return workers_[static_cast<size_t>(worker)]; }

  // The input of a product, quantised.
  struct QuantisedInput {
    Scratch codes;   // [rows][stride] int8
    Scratch scales;  // [rows][groups] f32
    Scratch sums;    // [rows][groups] i32
  };

  LinearArguments prepare(const Product& product, QuantisedInput& input) {
    const bool quantises = is_quantised(product.matrix->format);
    return prepare(product, quantises ? quantise(product.in, input) : QuantisedRows{});
  }

  // With the product's input as it was quantised before.
  static LinearArguments prepare(const Product& product, const QuantisedRows& quantised) {
    LinearArguments arguments{};
    arguments.quantised = quantised;
    arguments.matrix = product.matrix;
    arguments.in = product.in.data;
    arguments.in_stride = product.in.stride;
    arguments.out = product.out.data;
    arguments.out_stride = product.out.stride;
    arguments.epilogue = product.epilogue;
    arguments.row_end = product.in.count;
    return arguments;
  }

  // A block of 16 outputs takes as long as it has columns, whose weights are read once and
  // multiplied by each row. To read a bit and to multiply once take about the same time.
  static Load load(const Product& product) {
    const Matrix& matrix = *product.matrix;
    const int64_t bits = std::llround(bits_per_weight(matrix.format));
    return {matrix.row_blocks(), matrix.columns * (bits + product.in.count)};
  }

  void multiply(const Product& product, const LinearArguments& arguments, int64_t block_begin,
                int64_t block_end, int worker) {
    if (product.gated) {
      multiply_gated(arguments, block_begin, block_end, worker);
    } else {
      multiply(arguments, block_begin, block_end, worker);
    }
  }

  // Some blocks at a time, gate and up to scratch, from there together to where they belong. Pieces
  // begin and end between pairs of blocks: kBlocksTogether is even, and so is their number.
  void multiply_gated(const LinearArguments& arguments, int64_t block_begin, int64_t block_end,
                      int worker) {
    static_assert(kBlocksTogether % 2 == 0);
    const int64_t rows = arguments.row_end;
    const int64_t room = kGatedValues / (rows * kRowBlock) / kBlocksTogether * kBlocksTogether;
    const int64_t most = std::max(kBlocksTogether, std::min(room, block_end - block_begin));
    LinearArguments part = arguments;
    part.epilogue = Epilogue::store;
    part.out_stride = (most | 1) * kRowBlock;  // an odd number of cache lines
    part.out = scratch(worker).gated.get<float>(rows * part.out_stride);
    for (int64_t begin = block_begin; begin < block_end; begin += most) {
      const int64_t end = std::min(begin + most, block_end);
      part.out_block = begin;
      multiply(part, begin, end, worker);
      kernels_.finish_gated({part.out, part.out_stride, arguments.out + begin / 2 * kRowBlock,
                             arguments.out_stride, (end - begin) / 2 * kRowBlock,
                             arguments.epilogue, 0, rows});
    }
  }

  void multiply(const LinearArguments& arguments, int64_t block_begin, int64_t block_end,
                int worker) {
    const Matrix& matrix = *arguments.matrix;
    LinearArguments part = arguments;
    part.block_begin = block_begin;
    part.block_end = block_end;
    const int64_t panel = kernels_.linear_panel_bytes(matrix, part.row_end);
    part.panel = scratch(worker).panel.get<uint8_t>(panel);
    kernels_.linear[static_cast<int>(matrix.format)](part);
  }

  QuantisedRows quantise(Rows in, QuantisedInput& input) {
    const int64_t groups = divide_up(in.width, kColumnGroup);
    const int64_t rows = round_up(in.count, kRowPadding);
    QuantiseArguments arguments{};
    arguments.in = in.data;
    arguments.stride = in.stride;
    arguments.groups = groups;
    arguments.out.stride = (groups | 1) * kColumnGroup;
    arguments.out.codes = input.codes.get<int8_t>(rows * arguments.out.stride);
    arguments.out.scales = input.scales.get<float>(rows * groups);
    arguments.out.sums = input.sums.get<int32_t>(rows * groups);
    each_row(pool_, in.count, in.width, [&](int64_t begin, int64_t end) {
      QuantiseArguments part = arguments;
      part.row_begin = begin;
      part.row_end = end;
      kernels_.quantise(part);
    });
    return arguments.out;
  }

  struct AttentionTask {
    const SequenceRows* sequence;
    int64_t kv_head;
    PagedHead cache;
    int64_t first, end;  // queries, as AttentionArguments counts them
    bool appends;        // the sequence's only row, which no other task needs
  };

  // Queries of a task: fewer where threads would be left without one.
  int64_t queries_together(const HeadLayout& heads) const {
    for (const int64_t together : {int64_t{kQueriesTogether}, kFewQueries}) {
      int64_t n_tasks = 0;
      for (const SequenceRows& sequence : batch_->sequences) {
        n_tasks += heads.n_kv_heads * divide_up(sequence.count * heads.group(), together);
      }
      if (n_tasks >= n_threads()) return together;
    }
    return 1;
  }

  // A single key goes into many cache lines, which are asked for a task ahead.
  static void ask_for_place(const HeadLayout& heads, const AttentionTask& task) {
    const SequenceRows& sequence = *task.sequence;
    if (!task.appends) return;
    const KvSizes tile = kv_sizes(sequence.kv_format, heads.head_dim, 16);
    const auto ask = [](const void* data, int64_t begin, int64_t bytes) {
      const char* place = static_cast<const char*>(data) + begin;
      for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(place + i, 0, 2);
    };
    const KvHead cache = head_in_page(task.cache, sequence.first_position / kPagePositions);
    const int64_t position = sequence.first_position % kPagePositions;
    const int64_t index = position / 16;
    ask(cache.keys, index * tile.keys, tile.keys);
    ask(cache.values, position * tile.values / 16, tile.values / 16);
    ask(cache.key_scales, index * tile.scales, tile.scales);
    ask(cache.value_scales, index * tile.scales, tile.scales);
  }

  // By heads and not by rows: a tile of keys has 16 positions side by side, and threads that
  // write into one cache line wait for each other.
  void append_rows(const HeadLayout& heads, int64_t layer, Rows qkv, const SequenceRows& sequence) {
    const int64_t width = qkv.width / heads.n_kv_heads;
    each_row(pool_, heads.n_kv_heads, sequence.count * width, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const AttentionTask task{&sequence, i, sequence.cache.head(layer, i), 0, 0, true};
        for (int64_t row = 0; row < sequence.count; ++row) {
          ask_for_row(heads, qkv, task, row + kRowsAhead);
          rotate_and_append(heads, qkv, task, row);
        }
      }
    });
  }

  // What rotate_and_append() will read: heads of consecutive rows lie so far apart that the
  // hardware does not see them coming. Inline always: GCC 12 leaves out calls of what only asks for
  // memory.
  [[gnu::always_inline]] static void ask_for_row(const HeadLayout& heads, Rows qkv,
                                                 const AttentionTask& task, int64_t index) {
    if (index >= task.sequence->count) return;
    const float* row = qkv.row(task.sequence->first_row + index);
    const auto ask = [&](int64_t head, int64_t n, int64_t width) {
      const float* values = row + head * heads.head_dim;
      for (int64_t i = 0; i < n; ++i, values += heads.head_dim) {
        for (int64_t j = 0; j < width; j += 16) __builtin_prefetch(values + j, 1);
      }
    };
    const int64_t group = heads.group();
    ask(task.kv_head * group, group, heads.rotary_dim);
    ask(heads.n_heads + task.kv_head, 1, heads.head_dim);
    ask(heads.n_heads + heads.n_kv_heads + task.kv_head, 1, heads.head_dim);
  }

  // One row's key, its value and the queries that share them.
  void rotate_and_append(const HeadLayout& heads, Rows qkv, const AttentionTask& task,
                         int64_t index) {
    const SequenceRows& sequence = *task.sequence;
    const int64_t half = heads.rotary_dim / 2;
    const int64_t group = heads.group();
    const int64_t key_head = heads.n_heads + task.kv_head;
    const int64_t value_head = key_head + heads.n_kv_heads;
    float* row = qkv.row(sequence.first_row + index);
    const int64_t position = sequence.first_position + index;
    const auto rotate = [&](int64_t head) {
      kernels_.rotate({row, batch_->cosines + position * half, batch_->sines + position * half,
                       heads.rotary_dim, heads.head_dim, head});
    };
    for (int64_t i = 0; i < group; ++i) rotate(task.kv_head * group + i);
    rotate(key_head);
    kernels_.append[static_cast<int>(sequence.kv_format)](
        {row + key_head * heads.head_dim, row + value_head * heads.head_dim,
         head_in_page(task.cache, position / kPagePositions), heads.head_dim,
         position % kPagePositions});
  }

  void attend(const HeadLayout& heads, const Scoring& scoring, Rows qkv, Rows out,
              const AttentionTask& task, const AttentionTask* next, float* scratch) {
    const SequenceRows& sequence = *task.sequence;
    const int64_t group = heads.group();
    const int64_t head = task.kv_head * group;
    AttentionArguments arguments{};
    arguments.queries = qkv.row(sequence.first_row) + head * heads.head_dim;
    arguments.query_stride = qkv.stride;
    arguments.cache = task.cache;
    arguments.head_dim = heads.head_dim;
    arguments.group = group;
    arguments.first_position = sequence.first_position;
    arguments.row_begin = task.first;
    arguments.row_end = task.end;
    arguments.window = scoring.window;
    arguments.scale = scoring.scale;
    arguments.bias =
        scoring.bias == nullptr ? nullptr : scoring.bias + head * scoring.bias_positions;
    arguments.bias_positions = scoring.bias_positions;
    arguments.scratch = scratch;
    arguments.out = out.row(sequence.first_row) + head * heads.head_dim;
    arguments.out_stride = out.stride;
    arguments.next_keys = next == nullptr ? nullptr : first_keys(heads, scoring, *next);
    kernels_.attention[static_cast<int>(sequence.kv_format)](arguments);
  }

  // What a task reads first.
  static const void* first_keys(const HeadLayout& heads, const Scoring& scoring,
                                const AttentionTask& task) {
    const int64_t seen = task.sequence->first_position + task.first / heads.group() + 1;
    return head_in_page(task.cache, first_seen(seen, scoring.window) / kPagePositions).keys;
  }

  const KernelTable& kernels_;
  ThreadPool pool_;
  const Batch* batch_ = nullptr;  // of the pass under way
  std::vector<Worker> workers_;
  std::vector<AttentionTask> tasks_;
  QuantisedInput first_input_;
  QuantisedInput second_input_;  // of a pair
  Scratch softmax_runs_;         // largest logits and sums of the runs of softmaxes
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const KernelTable& kernels, int n_threads) {
  return std::make_unique<CpuBackend>(kernels, n_threads);
}

}  // namespace pythia_rt
