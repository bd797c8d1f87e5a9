// The operations of a backend over numpy arrays: the same tests run on every device.
#include "testing/backends.h"

#include <pybind11/stl.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "backend/cpu.h"
#include "base/rounding.h"
#include "bindings/arrays.h"
#include "cuda/cuda.h"
#include "formats/formats.h"
#include "kernels/dispatch.h"

namespace pythia_rt {

namespace {

using Floats = py::array_t<float, py::array::c_style | py::array::forcecast>;
using Bytes = py::array_t<uint8_t, py::array::c_style | py::array::forcecast>;
using Tokens = std::vector<int32_t>;

void check(bool good, const char* sentence) {
  if (!good) throw_invalid(sentence);
}

// One matrix product of a test.
struct ProductCase {
  std::string format;
  std::vector<Bytes> parts;
  int64_t rows;
  int64_t columns;
  Floats in;
  std::string epilogue;
  std::optional<Floats> bias;
  bool gated = false;  // out is half as wide
};

// A sequence's cache and what has been appended to it.
struct TestSequence {
  std::vector<std::byte*> pages;
  PageLayout layout;
  KvFormat format;
  int64_t length = 0;
};

// The reference computes by itself: the thread sanitizer does not know what the pool waits with.
int threads_of(const std::string& isa) { return isa == "scalar" ? 1 : 2; }

class TestBackend {
 public:
  explicit TestBackend(const std::string& name)
      : backend_(name == "cuda" ? make_cuda_backend()
                                : make_cpu_backend(kernels_for(name), threads_of(name))) {}

  // A layer norm, or without a bias an RMS norm; in place or not.
  Floats norm(const Floats& values, const Floats& weight, const std::optional<Floats>& bias,
              float epsilon, bool in_place) {
    const Rows in = rows_of(values), out = in_place ? in : rows(in.count, in.width);
    backend_->norm(norm_of(weight, bias, epsilon), in, out);
    return array_of(out);
  }

  std::pair<Floats, Floats> norm_pair(const Floats& values, const Floats& first_weight,
                                      const std::optional<Floats>& first_bias,
                                      const Floats& second_weight,
                                      const std::optional<Floats>& second_bias, float epsilon) {
    const Rows in = rows_of(values);
    const Rows first = rows(in.count, in.width), second = rows(in.count, in.width);
    backend_->norm_pair(in, {norm_of(first_weight, first_bias, epsilon), first},
                        {norm_of(second_weight, second_bias, epsilon), second});
    return {array_of(first), array_of(second)};
  }

  // `columns` of the rows, from the first one on, in n_parts parts.
  Floats norm_parts(const Floats& values, int64_t first, int64_t columns, int64_t n_parts,
                    const Floats& weight, const std::optional<Floats>& bias, float epsilon) {
    const Rows all = rows_of(values);
    check(first + columns <= all.width && columns % n_parts == 0, "wrong shapes");
    check(weight.size() == columns && (!bias || bias->size() == columns), "wrong weights");
    // Not padded: nothing beyond them is read.
    const NormParameters parameters{bias.has_value(), vector_of(weight),
                                    bias ? vector_of(*bias) : nullptr, epsilon};
    backend_->norm_parts(parameters, n_parts, {all.data + first, all.count, columns, all.stride});
    return array_of(all);
  }

  // One or two products; with `before` [n, rows] all of them go into those rows.
  std::vector<Floats> linear(const std::vector<ProductCase>& cases,
                             const std::optional<Floats>& before) {
    check(cases.size() == 1 || cases.size() == 2, "one product or two");
    std::vector<Product> products;
    for (const ProductCase& wanted : cases) {
      const Matrix& matrix = matrices_.emplace_back(matrix_of(wanted));
      const Rows in = rows_of(wanted.in);
      Rows out = before && !products.empty() ? products[0].out : Rows{};
      if (out.data == nullptr) out = before ? rows_of(*before) : rows(in.count, width_of(wanted));
      products.push_back({&matrix, in, out, epilogue_named(wanted.epilogue), wanted.gated});
    }
    if (products.size() == 1) {
      backend_->linear(products[0]);
    } else {
      backend_->linear_pair(products[0], products[1]);
    }
    std::vector<Floats> results;
    for (const Product& product : products) results.push_back(array_of(product.out));
    return results;
  }

  // epilogue(values), added to `before` if that is what it does; in place or not.
  Floats finish(const std::string& epilogue, const Floats& values,
                const std::optional<Floats>& before, bool in_place) {
    const Rows in = rows_of(values);
    const Rows out = in_place ? in : before ? rows_of(*before) : rows(in.count, in.width);
    backend_->finish(epilogue_named(epilogue), in, out);
    return array_of(out);
  }

  Floats finish_gated(const std::string& epilogue, const Floats& values) {
    const Rows in = rows_of(values), out = rows(in.count, in.width / 2);
    check(in.width % (2 * kRowBlock) == 0, "gate and up are whole blocks");
    backend_->finish_gated(epilogue_named(epilogue), in, out);
    return array_of(out);
  }

  // A row for each of `tokens` and of `places`, the tokens' positions; either may be empty, and
  // then the other's table alone counts.
  Floats embed(const std::string& format, const std::vector<Bytes>& parts, int64_t n_rows,
               int64_t columns, const Tokens& tokens, const std::optional<Floats>& positions,
               const std::vector<int64_t>& places) {
    const Matrix matrix =
        matrix_of({format, parts, n_rows, columns, Floats(), "store", std::nullopt});
    check(tokens.empty() || !positions || tokens.size() == places.size(), "counts differ");
    const Rows out = rows(static_cast<int64_t>(positions ? places.size() : tokens.size()), columns);
    Batch batch;
    batch.tokens = tokens;
    std::vector<std::vector<std::byte*>> no_pages;
    for (int64_t i = 0; i < out.count; ++i) {
      const int64_t place = positions ? places[static_cast<size_t>(i)] : i;
      no_pages.emplace_back(static_cast<size_t>(place / kPagePositions + 1));
      batch.sequences.push_back({i, 1, place, KvFormat::f32, {no_pages.back().data(), {}}});
    }
    const float* table = positions ? vector_of(*positions) : nullptr;
    backend_->pass(batch, [&] { backend_->embed(tokens.empty() ? nullptr : &matrix, table, out); });
    return array_of(out);
  }

  Floats gather(const Floats& values, const std::vector<int64_t>& wanted) {
    const Rows in = rows_of(values), out = rows(static_cast<int64_t>(wanted.size()), in.width);
    backend_->gather(in, wanted.data(), out);
    Floats array({out.count, out.width});
    std::vector<float*> places;
    for (int64_t i = 0; i < out.count; ++i) places.push_back(array.mutable_data(i, 0));
    backend_->read_rows(out, places.data());
    return array;
  }

  // `values` with the columns from `first` on replaced by `columns`.
  Floats write_columns(const Floats& values, int64_t first, const Floats& columns) {
    const Rows all = rows_of(values);
    check(columns.shape(0) == all.count && first + columns.shape(1) <= all.width, "wrong shapes");
    backend_->write(columns.data(), {all.data + first, all.count, columns.shape(1), all.stride});
    return array_of(all);
  }

  // The columns from `first` on are doubled, and a row's number is added to them, on the host; and
  // what was there, as it was seen.
  std::pair<Floats, Floats> on_host(const Floats& values, int64_t first, int64_t n_columns,
                                    bool writes) {
    const Rows all = rows_of(values);
    check(first + n_columns <= all.width, "wrong shapes");
    const Rows part{all.data + first, all.count, n_columns, all.stride};
    Floats seen({all.count, n_columns});
    float* out = seen.mutable_data();
    backend_->on_host(part, writes, [&](Rows host, int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        std::copy_n(host.row(i), n_columns, out + i * n_columns);
        for (int64_t j = 0; writes && j < n_columns; ++j) {
          host.row(i)[j] = 2 * host.row(i)[j] + static_cast<float>(i);
        }
      }
    });
    return {array_of(all), seen};
  }

  // Of each row: the logit at its target, the largest logit, the sum.
  Floats score(const ProductCase& head, const Tokens& targets) {
    const Matrix matrix = matrix_of(head);
    const Rows in = rows_of(head.in);
    check(static_cast<int64_t>(targets.size()) == in.count, "a target for each row");
    std::vector<SoftmaxTerm> terms(targets.size());
    backend_->score(matrix, in, targets.data(), terms.data());
    Floats result({in.count, int64_t{3}});
    for (int64_t i = 0; i < in.count; ++i) {
      const SoftmaxTerm& term = terms[static_cast<size_t>(i)];
      const float values[] = {term.logit, term.largest, term.sum};
      std::copy_n(values, 3, result.mutable_data() + 3 * i);
    }
    return result;
  }

  // A cache of `n_layers` layers with room for `capacity` positions; returns its number.
  size_t add_sequence(const std::string& kv_format, int64_t n_kv_heads, int64_t head_dim,
                      int64_t n_layers, int64_t capacity) {
    const KvFormat format = kv_format_from_name(kv_format);
    TestSequence sequence{{}, page_layout(format, head_dim, n_kv_heads, n_layers), format};
    for (int64_t i = 0; i < capacity; i += kPagePositions) {
      sequence.pages.push_back(memory(static_cast<size_t>(sequence.layout.bytes())));
    }
    sequences_.push_back(std::move(sequence));
    return sequences_.size() - 1;
  }

  void rewind(size_t sequence, int64_t length) { sequences_.at(sequence).length = length; }

  // One pass: counts[i] rows of `values` [n, (heads + 2 kv heads) * head_dim] go to the sequence
  // numbered sequences[i], in one layer. Returns what they attend to [n, heads * head_dim] and the
  // rotated rows. Passes of the same `repeats` may be recorded, in rows that stay where they are.
  std::pair<Floats, Floats> attend(const std::vector<size_t>& sequences,
                                   const std::vector<int64_t>& counts, const Floats& values,
                                   int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,
                                   const Floats& cosines, const Floats& sines, int64_t layer,
                                   int64_t repeats, float scale, int64_t window,
                                   const std::optional<Floats>& bias) {
    check(sequences.size() == counts.size() && cosines.ndim() == 2, "wrong shapes");
    const HeadLayout heads{n_heads, n_kv_heads, head_dim, 2 * cosines.shape(1)};
    Scoring scoring{scale, window, nullptr, 0};
    if (bias) {
      check(bias->ndim() == 2 && bias->shape(0) == n_heads && repeats < 0, "not such a bias");
      scoring.bias = vector_of(*bias);
      scoring.bias_positions = bias->shape(1);
    }
    Rows qkv = rows_of(values);
    check(qkv.width == (n_heads + 2 * n_kv_heads) * head_dim, "wrong width");
    Rows out = rows(qkv.count, n_heads * head_dim);
    Batch batch;
    batch.repeats = repeats;
    if (repeats >= 0) {
      if (fixed_qkv_.count != qkv.count || fixed_qkv_.width != qkv.width) {
        fixed_qkv_ = qkv;
        fixed_out_ = out;
        fixed_cosines_ = vector_of(cosines);
        fixed_sines_ = vector_of(sines);
      }
      qkv = fixed_qkv_;
      out = fixed_out_;
      backend_->write(values.data(), qkv);
      batch.cosines = fixed_cosines_;
      batch.sines = fixed_sines_;
    } else {
      batch.cosines = vector_of(cosines);
      batch.sines = vector_of(sines);
    }
    int64_t first = 0;
    for (size_t i = 0; i < sequences.size(); ++i) {
      TestSequence& sequence = sequences_.at(sequences[i]);
      batch.sequences.push_back({first,
                                 counts[i],
                                 sequence.length,
                                 sequence.format,
                                 {sequence.pages.data(), sequence.layout}});
      sequence.length += counts[i];
      first += counts[i];
    }
    check(first == qkv.count, "counts and rows differ");
    backend_->pass(batch, [&] { backend_->attention(heads, scoring, layer, qkv, out); });
    return {array_of(out), array_of(qkv)};
  }

  // The bytes of a sequence's cache, a row for each page.
  py::array_t<uint8_t> cache_bits(size_t index) {
    const TestSequence& sequence = sequences_.at(index);
    const int64_t n = sequence.layout.bytes();
    py::array_t<uint8_t> bytes({static_cast<int64_t>(sequence.pages.size()), n});
    for (size_t i = 0; i < sequence.pages.size(); ++i) {
      backend_->download(sequence.pages[i], static_cast<size_t>(n),
                         bytes.mutable_data(static_cast<int64_t>(i), 0));
    }
    return bytes;
  }

  std::string isa() const { return backend_->isa(); }

 private:
  // Exactly sized: a sanitizer sees what is read beyond it.
  std::byte* memory(size_t bytes) {
    return buffers_.emplace_back(backend_->allocate(std::max<size_t>(bytes, 4)))->data();
  }

  Rows rows(int64_t count, int64_t width) {
    const int64_t stride = round_up(width, kColumnGroup) + 16;
    std::byte* data = memory(static_cast<size_t>(count * stride) * sizeof(float));
    return {reinterpret_cast<float*>(data), count, width, stride};
  }

  static int64_t width_of(const ProductCase& wanted) {
    check(!wanted.gated || wanted.rows % (2 * kRowBlock) == 0, "gate and up are whole blocks");
    return wanted.gated ? wanted.rows / 2 : wanted.rows;
  }

  Rows rows_of(const Floats& values) {
    check(values.ndim() == 2, "rows have two dimensions");
    const Rows out = rows(values.shape(0), values.shape(1));
    backend_->write(values.data(), out);
    return out;
  }

  Floats array_of(Rows values) {
    Floats array({values.count, values.width});
    backend_->read(values, array.mutable_data());
    return array;
  }

  template <typename Array>
  std::byte* bytes_of(const Array& values) {
    const auto bytes = static_cast<size_t>(values.nbytes());
    std::byte* data = memory(bytes);
    backend_->upload(values.data(), bytes, data);
    return data;
  }

  float* vector_of(const Floats& values) { return reinterpret_cast<float*>(bytes_of(values)); }

  // Padded with zeros to whole blocks.
  float* padded_vector(const Floats& values) {
    const auto size = static_cast<size_t>(round_up(values.size(), kRowBlock));
    std::vector<float> padded(size, 0.0f);
    std::copy_n(values.data(), values.size(), padded.data());
    std::byte* data = memory(size * sizeof(float));
    backend_->upload(padded.data(), size * sizeof(float), data);
    return reinterpret_cast<float*>(data);
  }

  NormParameters norm_of(const Floats& weight, const std::optional<Floats>& bias, float epsilon) {
    return {bias.has_value(), padded_vector(weight), bias ? padded_vector(*bias) : nullptr,
            epsilon};
  }

  Matrix matrix_of(const ProductCase& wanted) {
    Matrix matrix;
    matrix.format = format_from_name(wanted.format);
    matrix.rows = wanted.rows;
    matrix.columns = wanted.columns;
    matrix.table = format_table(matrix.format);
    const std::vector<PackedPart> layout =
        packed_layout(matrix.format, wanted.rows, wanted.columns);
    check(wanted.parts.size() == layout.size(), "the matrix has the wrong number of parts");
    std::vector<const void*> pointers;
    for (size_t i = 0; i < layout.size(); ++i) {
      check(static_cast<size_t>(wanted.parts[i].size()) == layout[i].bytes, "wrong size of a part");
      pointers.push_back(bytes_of(wanted.parts[i]));
    }
    bind_parts(layout, pointers, matrix);
    if (wanted.bias) matrix.bias = padded_vector(*wanted.bias);
    return matrix;
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  std::deque<Matrix> matrices_;
  std::vector<TestSequence> sequences_;
  Rows fixed_qkv_, fixed_out_;  // of passes that come again
  float* fixed_cosines_ = nullptr;
  float* fixed_sines_ = nullptr;
};

}  // namespace

Epilogue epilogue_named(const std::string& name) {
  if (name == "store") return Epilogue::store;
  if (name == "add") return Epilogue::add;
#define PYTHIA_RT_BY_NAME(activation) \
  if (name == #activation) return Epilogue::activation;
  PYTHIA_RT_ACTIVATIONS(PYTHIA_RT_BY_NAME)
#undef PYTHIA_RT_BY_NAME
  throw_invalid("there is no epilogue ", name);
}

void bind_backends(py::module_& module) {
  py::class_<ProductCase>(module, "ProductCase")
      .def(py::init<std::string, std::vector<Bytes>, int64_t, int64_t, Floats, std::string,
                    std::optional<Floats>, bool>(),
           py::arg("format"), py::arg("parts"), py::arg("rows"), py::arg("columns"), py::arg("in"),
           py::arg("epilogue") = "store", py::arg("bias") = py::none(), py::arg("gated") = false);
  py::class_<TestBackend>(module, "TestBackend")
      .def(py::init<const std::string&>(), py::arg("name"))
      .def_property_readonly("isa", &TestBackend::isa)
      .def("norm", &TestBackend::norm, py::arg("values"), py::arg("weight"), py::arg("bias"),
           py::arg("epsilon"), py::arg("in_place") = false)
      .def("norm_pair", &TestBackend::norm_pair)
      .def("norm_parts", &TestBackend::norm_parts)
      .def("linear", &TestBackend::linear, py::arg("cases"), py::arg("before") = py::none())
      .def("finish", &TestBackend::finish, py::arg("epilogue"), py::arg("values"),
           py::arg("before") = py::none(), py::arg("in_place") = false)
      .def("finish_gated", &TestBackend::finish_gated)
      .def("write_columns", &TestBackend::write_columns)
      .def("on_host", &TestBackend::on_host)
      .def("embed", &TestBackend::embed, py::arg("format"), py::arg("parts"), py::arg("n_rows"),
           py::arg("columns"), py::arg("tokens"), py::arg("positions") = py::none(),
           py::arg("places") = std::vector<int64_t>())
      .def("gather", &TestBackend::gather)
      .def("score", &TestBackend::score)
      .def("add_sequence", &TestBackend::add_sequence, py::arg("kv_format"), py::arg("n_kv_heads"),
           py::arg("head_dim"), py::arg("n_layers"), py::arg("capacity"))
      .def("rewind", &TestBackend::rewind)
      .def("attend", &TestBackend::attend, py::arg("sequences"), py::arg("counts"),
           py::arg("values"), py::arg("n_heads"), py::arg("n_kv_heads"), py::arg("head_dim"),
           py::arg("cosines"), py::arg("sines"), py::arg("layer") = 0, py::arg("repeats") = -1,
           py::arg("scale") = 0.125f, py::arg("window") = 0, py::arg("bias") = py::none())
      .def("cache_bits", &TestBackend::cache_bits);
}

}  // namespace pythia_rt
