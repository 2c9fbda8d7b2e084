// SPDX-License-Identifier: Apache-2.0
// oneDNN's matrix product, one thread at a time: the caller cuts the work into chunks for our own
// pool. The library is opened on first use through a table of its C functions, so that programs
// that never multiply large matrices neither load it nor start its thread runtime.
#pragma once

#include "pinion/kernels/context.h"
#include "pinion/kernels/types.h"

namespace pinion::kernels::onednn {

// y[m,n] (row stride ldy, dtype y_type) = a[m,k] b[k,n] (+ y when accumulate). Strides are in
// elements; one of each operand's pair must be 1. dtype is f32 or bf16.
struct Product {
  int64_t m, n, k;
  DType dtype, y_type;
  int64_t a_row, a_col, b_row, b_col, ldy;
  bool accumulate;
  bool operator==(const Product&) const = default;
};

// Whether this build and machine have a oneDNN that computes this dtype with the rung's full speed.
// PINION_ONEDNN=0 in the environment says no.
bool available(Isa isa, DType dtype);

// Runs on the calling thread. False when oneDNN has no implementation for these arguments; y is
// then untouched. Throws Error (internal) when it fails later than that.
bool multiply(const Product& product, const void* a, const void* b, void* y);

const char* version();  // "2.6.3", or why there is none

}  // namespace pinion::kernels::onednn
