// Sums of squares over the rows and columns of a matrix, which balancing decides by.
#pragma once

#include <cstdint>

#include "formats/source.h"

namespace pythia_rt {

constexpr int kSumRows = 64;         // whose columns are added up in f32
constexpr int kSumSegment = 128;     // values of a row that are, at most
constexpr double kLeastSum = 1e-30;  // of a row's squares: one below it counts as zeros

// Of a matrix W [rows][columns]. The order of all additions is fixed: f32 within segments of
// gcd(columns, kSumSegment) values, in four lanes, and f64 over a row's segments.
struct MatrixSums {
  const float* gain;   // [columns]
  const float* shift;  // [columns], or null
  // Whether each row is divided by its sum of squares before its columns are added up.
  bool relative;
  double* rows;     // [rows]: sum of W^2 * gain
  double* shifted;  // [rows]: sum of W * shift; untouched without a shift
  float* columns;   // [rows / kSumRows, rounded up][columns]: of W^2 in as many rows
};

void add_up(const SourceMatrix& source, const MatrixSums& sums);

}  // namespace pythia_rt
