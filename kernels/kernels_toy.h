// SPDX-License-Identifier: Apache-2.0
// The part of the list of kernels (kernels/kernels.h) that trains small classifiers for whole runs,
// and that puts samples in order for it and for others.
#pragma once

#include "pinion/kernels/kernels.h"

#define PINION_KERNEL(name, ...)              \
  namespace rung_scalar {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx2 {                       \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace rung_avx512 {                     \
  void name(const CpuContext&, __VA_ARGS__);  \
  }                                           \
  namespace cuda {                            \
  void name(const CudaContext&, __VA_ARGS__); \
  }                                           \
  inline constexpr Kernel<void(__VA_ARGS__)> name{PINION_RUNGS(name) PINION_CUDA_ENTRY(name)};

namespace pinion::kernels {

// Whole training runs of M models of one shape, linear(relu(linear(x))) with cross-entropy and
// Adam, on the same data: every epoch, forward, loss, backward and update, in one call. Each model
// has initial weights, an order of samples and a learning rate of its own, and becomes what it
// would have become alone, bit for bit. All numbers are f32 but those of the losses and rates.
struct ToyTrainArgs {
  ConstView x;       // [samples, features]
  ConstView target;  // [samples] i64; one outside [0, classes) makes losses and weights NaN
  View w1, b1;       // [M, hidden, features], [M, hidden]: initial weights, then trained ones
  View w2, b2;       // [M, classes, hidden], [M, classes]
  ConstView lr;      // [M] f64
  ConstView seed;    // [M] i64: epoch e runs in the order Permutation(samples, {seed, stream, e})
  uint32_t stream = 0;
  int64_t epochs = 0;
  int64_t batch = 0;  // samples of a step; the last step of an epoch has what is left
  AdamStep adam;      // less lr and step, which counts from 1
  View loss;          // [M, epochs] f64: the mean over the steps of their mean losses
  View correct;       // [M, epochs] i64: samples whose target was the first largest logit
};

// clang-format off

// order[i] (i64) = Permutation(n, key)(first + i): part of a shuffled epoch of n samples, at most
// 2^31 of them, from any position on; kernels/permutation.h.
PINION_KERNEL(permute, int64_t n, PhiloxKey key, int64_t first, View order)
// A batch: y[i,c] = x[index[i], c] in the type of y, and 0 for rows i and columns c that there are
// not. x [N,C] of any dtype, y [m,w] floating, m and w at least the size of index and C.
PINION_KERNEL(gather_cast, ConstView x, ConstView index, View y)
// CUDA: features and hidden up to 32 and 64, classes up to 16, samples as shared memory holds them;
// Error (device) says so otherwise.
PINION_KERNEL(toy_train, ToyTrainArgs args)

// clang-format on

}  // namespace pinion::kernels

#undef PINION_KERNEL
