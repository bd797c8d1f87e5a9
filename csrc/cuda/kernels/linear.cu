// linear(): one or two matrix products, handed to the kernels of their formats.
#include "cuda/kernels/linear_work.cuh"
#include "formats/formats.h"

namespace pythia_rt::cuda {
namespace {

LinearWork work_of(const LinearTask& task) {
  const Matrix& matrix = task.matrix;
  LinearWork work;
  work.weight = static_cast<const uint8_t*>(matrix.weight);
  work.scales = static_cast<const uint8_t*>(matrix.scales);
  work.units = matrix.units;
  work.bias = matrix.bias;
  work.codes = task.quantised.codes;
  work.code_scales = task.quantised.scales;
  work.code_stride = task.quantised.stride;
  work.in = task.in.data;
  work.in_stride = task.in.stride;
  work.out = task.out.data;
  work.out_stride = task.out.stride;
  work.rows = static_cast<int>(matrix.rows);
  work.groups = static_cast<int>(matrix.groups());
  work.tokens = static_cast<int>(task.in.count);
  work.format = matrix.format;
  work.epilogue = task.epilogue;
  return work;
}

void launch(Stream stream, const LinearTask* tasks, int n_tasks) {
  LinearWorks works = {};
  works.count = n_tasks;
  works.same_outputs = n_tasks == 2 && tasks[0].out.data == tasks[1].out.data;
  for (int i = 0; i < n_tasks; ++i) works.work[i] = work_of(tasks[i]);
  if (is_quantised(tasks[0].matrix.format)) {
    linear_integer(stream, works);
  } else {
    linear_float(stream, works);
  }
}

}  // namespace

void linear(Stream stream, const LinearTask* tasks, int n_tasks) {
  if (tasks[0].in.count == 0) return;
  const bool are_alike =
      n_tasks == 1 || is_quantised(tasks[0].matrix.format) == is_quantised(tasks[1].matrix.format);
  if (are_alike) {
    launch(stream, tasks, n_tasks);
  } else {
    for (int i = 0; i < n_tasks; ++i) launch(stream, tasks + i, 1);
  }
}

}  // namespace pythia_rt::cuda
