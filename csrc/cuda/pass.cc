#include "cuda/pass.h"

#include <algorithm>

#include "base/error.h"
#include "base/rounding.h"

namespace pythia_rt::cuda {

namespace {

// The next power of two: few different grids, so that few passes have to be recorded.
int64_t rounded_positions(int64_t positions) {
  int64_t rounded = kAttentionBlock;
  while (rounded < positions) rounded *= 2;
  return rounded;
}

// That the rows see.
int64_t pages_of(const SequenceRows& rows) {
  return divide_up(rows.first_position + rows.count, kPagePositions);
}

// Places one table after another, each where any type may begin.
class Layout {
 public:
  template <typename T>
  size_t add(size_t count) {
    const size_t offset = bytes_;
    bytes_ += static_cast<size_t>(round_up(static_cast<int64_t>(count * sizeof(T)), 64));
    return offset;
  }
  size_t bytes() const { return bytes_; }

 private:
  size_t bytes_ = 0;
};

}  // namespace

bool PassTables::load(const Batch& batch, Stream stream) {
  const auto n_rows = static_cast<size_t>(batch.rows());
  tiles_.clear();
  formats_.clear();
  int64_t most = 1;
  int64_t n_pages = 0;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceRows& rows = batch.sequences[i];
    for (int64_t first = 0; first < rows.count; first += kQueriesPerTile) {
      const int64_t count = std::min<int64_t>(kQueriesPerTile, rows.count - first);
      tiles_.push_back({static_cast<int32_t>(i), static_cast<int32_t>(rows.first_row + first),
                        static_cast<int32_t>(count),
                        static_cast<int32_t>(rows.first_position + first)});
    }
    most = std::max(most, rows.first_position + rows.count);
    n_pages += pages_of(rows);
    if (rows.cache.layout.bytes() >> 32 != 0) {
      throw_invalid("a page of the cache has ", rows.cache.layout.bytes(),
                    " bytes, and must have less than 4 GB on a CUDA device");
    }
    if (std::find(formats_.begin(), formats_.end(), rows.kv_format) == formats_.end()) {
      formats_.push_back(rows.kv_format);
    }
  }

  Layout layout;
  const size_t tokens_at = layout.add<int32_t>(n_rows);
  const size_t rows_at = layout.add<RowPlace>(n_rows);
  const size_t sequences_at = layout.add<SequencePlace>(batch.sequences.size());
  const size_t tiles_at = layout.add<QueryTile>(tiles_.size());
  // Last, and with some to spare: a recording knows where the tables before lie, and must still be
  // right when a sequence has got another page.
  const size_t pages_at = layout.add<std::byte*>(static_cast<size_t>(round_up(n_pages, 64)));
  const auto bytes = static_cast<int64_t>(layout.bytes());
  bool moved = false;
  auto* host = on_host_.get<std::byte>(bytes, moved);
  auto* device = on_device_.get<std::byte>(bytes, moved);

  std::copy(batch.tokens.begin(), batch.tokens.end(), reinterpret_cast<int32_t*>(host + tokens_at));
  auto* row_places = reinterpret_cast<RowPlace*>(host + rows_at);
  auto* sequence_places = reinterpret_cast<SequencePlace*>(host + sequences_at);
  size_t table_at = pages_at;
  for (size_t i = 0; i < batch.sequences.size(); ++i) {
    const SequenceRows& rows = batch.sequences[i];
    std::copy_n(rows.cache.pages, pages_of(rows), reinterpret_cast<std::byte**>(host + table_at));
    auto* table = reinterpret_cast<std::byte* const*>(device + table_at);
    table_at += static_cast<size_t>(pages_of(rows)) * sizeof(std::byte*);
    sequence_places[i] = {{table, rows.cache.layout}, rows.kv_format};
    for (int64_t j = 0; j < rows.count; ++j) {
      *row_places++ = {static_cast<int32_t>(i), static_cast<int32_t>(rows.first_position + j)};
    }
  }
  std::copy(tiles_.begin(), tiles_.end(), reinterpret_cast<QueryTile*>(host + tiles_at));
  copy_to_device(device, host, static_cast<size_t>(bytes), stream);

  places_ = {reinterpret_cast<const int32_t*>(device + tokens_at),
             reinterpret_cast<const RowPlace*>(device + rows_at),
             reinterpret_cast<const SequencePlace*>(device + sequences_at),
             reinterpret_cast<const QueryTile*>(device + tiles_at),
             static_cast<int64_t>(tiles_.size()),
             rounded_positions(most),
             batch.cosines,
             batch.sines};
  return moved;
}

}  // namespace pythia_rt::cuda
