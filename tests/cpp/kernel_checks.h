// Checks of an ISA's kernels: bit for bit against the scalar ones, and against naive arithmetic in
// double precision within a stated bound.
#pragma once

#include "checks.h"
#include "kernels/table.h"

namespace pythia_rt::conformance {

// The largest relative error of one f32 operation.
constexpr double kUnit = 1.0 / (1 << 24);

void check_linear(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_other_activations(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_quantise(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_layer_norm(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_rms_norm(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_norm_parts(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_rotate(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_softmax(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_fit_scales(const KernelTable& table, const KernelTable& scalar, Checks& checks);
void check_attention(const KernelTable& table, const KernelTable& scalar, Checks& checks);
// Several heads of queries for one of keys and values, windows, biases.
void check_shared_attention(const KernelTable& table, const KernelTable& scalar, Checks& checks);

double exact_gelu(double x);
double exact_gelu_tanh(double x);
double exact_silu(double x);
double exact_relu(double x);

}  // namespace pythia_rt::conformance
