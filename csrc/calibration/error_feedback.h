// Quantisation with error feedback, for a block of columns: each column is rounded, and what that
// costs the layer's output is put right, as far as it can be, in the columns that follow it
// (GPTQ: Frantar et al. 2022, arXiv 2210.17323).
#pragma once

#include <cstdint>

#include "formats/formats.h"
#include "formats/matrix.h"

namespace pythia_rt {

class ThreadPool;

struct FeedbackBlock {
  Format format;  // a quantised one
  int64_t rows;
  int64_t columns;            // at most kColumnGroup
  const float* values;        // [rows][columns], earlier columns' errors already fed back
  const float* factor;        // [columns][columns], the block on the diagonal of the upper U, where
                              // U^T U is the inverse of the layer's inputs' X^T X
  const float* first_scales;  // [rows], where the search for scales begins
  const float* units;         // [row_blocks] of the whole matrix's scales
  uint8_t* codes;             // [rows][columns]
  float* scales;              // [rows], as the format stores them
  float* errors;              // [rows][columns]: times U's rows of this block, and the columns to
                              // their right, what must be taken from the values there
};

// Fills codes, scales and errors. Each row's scale is replaced by the one that suits its codes
// best, as long as that leaves less error in the layer's output: the sum of squares of `errors`.
void feed_back(const FeedbackBlock& block, ThreadPool& pool);

}  // namespace pythia_rt
