// Norms of rows of activations.
#include <algorithm>
#include <cmath>
#include <vector>

#include "base/error.h"
#include "guarded.h"
#include "kernel_checks.h"
#include "random.h"

namespace pythia_rt::conformance {

namespace {

constexpr int64_t kRows = 5;

std::vector<float> run_layer_norm(const KernelTable& table, const Guarded<float>& in,
                                  const Guarded<float>& weight, const Guarded<float>& bias,
                                  int64_t width, int64_t stride) {
  Guarded<float> out(kRows * stride);
  NormArguments arguments{in.data(), weight.data(), bias.data(), out.data(), width,
                          stride,    1e-5f,         0,           kRows};
  table.layer_norm(arguments);
  return {out.data(), out.end()};
}

// The bound: sums of n terms in 16 lanes err by n / 16 + 8 roundings; a mean far from zero costs
// digits in proportion to it.
std::string layer_norm_truth(const std::vector<float>& found, const Guarded<float>& in,
                             const Guarded<float>& weight, const Guarded<float>& bias,
                             int64_t width, int64_t stride) {
  for (int64_t row = 0; row < kRows; ++row) {
    double mean = 0, variance = 0, largest = 0;
    for (int64_t i = 0; i < width; ++i) {
      mean += static_cast<double>(in[row * stride + i]) / static_cast<double>(width);
      largest = std::max(largest, std::fabs(static_cast<double>(in[row * stride + i])));
    }
    for (int64_t i = 0; i < width; ++i) {
      const double centred = in[row * stride + i] - mean;
      variance += centred * centred / static_cast<double>(width);
    }
    const double inverse = 1 / std::sqrt(variance + 1e-5f);
    const double roundings = kUnit * (static_cast<double>(width) / 8 + 24);
    for (int64_t i = 0; i < width; ++i) {
      const double scaled = (in[row * stride + i] - mean) * inverse * weight[i];
      const double truth = scaled + bias[i];
      const double tolerance =
          roundings *
          (std::fabs(scaled) + largest * inverse * std::fabs(weight[i]) + std::fabs(truth));
      const auto index = static_cast<size_t>(row * stride + i);
      const std::string problem = distance(&found[index], &truth, 1, tolerance);
      if (!problem.empty()) return text("row ", row, " column ", i, " ", problem);
    }
  }
  return "";
}

std::vector<float> run_rms_norm(const KernelTable& table, const Guarded<float>& in,
                                const Guarded<float>& weight, int64_t width, int64_t stride) {
  Guarded<float> out(kRows * stride);
  table.rms_norm({in.data(), weight.data(), nullptr, out.data(), width, stride, 1e-5f, 0, kRows});
  return {out.data(), out.end()};
}

// The bound: the sum of n squares in 16 lanes errs by n / 16 + 4 roundings, its root by half.
std::string rms_norm_truth(const std::vector<float>& found, const Guarded<float>& in,
                           const Guarded<float>& weight, int64_t width, int64_t stride) {
  for (int64_t row = 0; row < kRows; ++row) {
    double mean_square = 0;
    for (int64_t i = 0; i < width; ++i) {
      const double x = in[row * stride + i];
      mean_square += x * x / static_cast<double>(width);
    }
    const double inverse = 1 / std::sqrt(mean_square + 1e-5f);
    const double roundings = kUnit * (static_cast<double>(width) / 16 + 12);
    for (int64_t i = 0; i < width; ++i) {
      const double truth = in[row * stride + i] * inverse * weight[i];
      const auto index = static_cast<size_t>(row * stride + i);
      const std::string problem = distance(&found[index], &truth, 1, roundings * std::fabs(truth));
      if (!problem.empty()) return text("row ", row, " column ", i, " ", problem);
    }
  }
  return "";
}

std::string padding_truth(const std::vector<float>& found, int64_t width, int64_t stride) {
  for (int64_t i = 0; i < static_cast<int64_t>(found.size()); ++i) {
    if (i % stride >= width && found[static_cast<size_t>(i)] != 0) return "not 0 beyond the width";
  }
  return "";
}

}  // namespace

void check_layer_norm(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  std::string equality, truth;
  Random random(6);
  for (const int64_t width : {1, 15, 16, 17, 64, 80, 128, 300, 768}) {
    const int64_t stride = round_up(width, 64);
    Guarded<float> in(kRows * stride), weight(round_up(width, 16)), bias(round_up(width, 16));
    for (int64_t i = 0; i < width; ++i) {
      weight[i] = 1 + random.normal();
      bias[i] = random.normal();
      for (int64_t row = 0; row < kRows; ++row) {
        const float offset = row == 1 ? 100.0f : 0.0f;
        const float magnitude = row == 2 ? 0.0f : row == 3 ? 1e-3f : 1.0f;
        in[row * stride + i] = magnitude * random.normal() + offset;
      }
    }
    const auto found = run_layer_norm(table, in, weight, bias, width, stride);
    const auto expected = run_layer_norm(scalar, in, weight, bias, width, stride);
    const auto count = static_cast<int64_t>(found.size());
    if (equality.empty()) equality = difference(found.data(), expected.data(), count);
    checks.fold(found.data(), count);
    if (truth.empty()) truth = layer_norm_truth(found, in, weight, bias, width, stride);
    if (truth.empty()) truth = padding_truth(found, width, stride);
  }
  checks.report("layer_norm equals scalar", equality);
  checks.report("layer_norm is accurate", truth);
}

void check_rms_norm(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  std::string equality, truth;
  Random random(16);
  for (const int64_t width : {1, 15, 16, 17, 64, 80, 128, 300, 768}) {
    const int64_t stride = round_up(width, 64);
    Guarded<float> in(kRows * stride), weight(round_up(width, 16));
    for (int64_t i = 0; i < width; ++i) {
      weight[i] = 1 + random.normal();
      for (int64_t row = 0; row < kRows; ++row) {
        const float magnitude = row == 1 ? 1e3f : row == 2 ? 0.0f : row == 3 ? 1e-3f : 1.0f;
        in[row * stride + i] = magnitude * random.normal();
      }
    }
    const auto found = run_rms_norm(table, in, weight, width, stride);
    const auto expected = run_rms_norm(scalar, in, weight, width, stride);
    const auto count = static_cast<int64_t>(found.size());
    if (equality.empty()) equality = difference(found.data(), expected.data(), count);
    checks.fold(found.data(), count);
    if (truth.empty()) truth = rms_norm_truth(found, in, weight, width, stride);
    if (truth.empty()) truth = padding_truth(found, width, stride);
  }
  checks.report("rms_norm equals scalar", equality);
  checks.report("rms_norm is accurate", truth);
}

void check_norm_parts(const KernelTable& table, const KernelTable& scalar, Checks& checks) {
  constexpr int64_t kParts = 3, kStride = 3 * 128;
  std::string equality;
  Random random(26);
  for (const int64_t width : {1, 15, 16, 17, 80, 128}) {
    const int64_t size = kParts * width;
    Guarded<float> in(kRows * kStride), weight(size), bias(size);
    for (int64_t i = 0; i < size; ++i) {
      weight[i] = 1 + random.normal();
      bias[i] = random.normal();
    }
    for (int64_t i = 0; i < kRows * kStride; ++i) in[i] = random.normal();
    for (const float* shift : {static_cast<const float*>(bias.data()), (const float*)nullptr}) {
      // The last part ends where the memory does.
      const auto run = [&](const KernelTable& kernels) {
        Guarded<float> rows((kRows - 1) * kStride + size);
        std::copy_n(in.data(), rows.end() - rows.data(), rows.data());
        kernels.norm_parts(
            {rows.data(), weight.data(), shift, kParts, width, kStride, 1e-5f, 0, kRows});
        return std::vector<float>(rows.data(), rows.end());
      };
      const auto found = run(table), expected = run(scalar);
      const auto count = static_cast<int64_t>(found.size());
      if (equality.empty()) equality = difference(found.data(), expected.data(), count);
      checks.fold(found.data(), count);
    }
  }
  checks.report("norm_parts equals scalar", equality);
}

}  // namespace pythia_rt::conformance
