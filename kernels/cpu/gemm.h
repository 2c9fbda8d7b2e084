// SPDX-License-Identifier: Apache-2.0
// The matrix product of a rung: c = op(a) op(b) with an epilogue, for any strides. Accumulates in
// float (double for f64); 16-bit operands are widened while they are packed. The order of every sum
// depends on the problem alone.
#pragma once

#include "pinion/kernels/cpu/rung.h"

namespace pinion::kernels::PINION_RUNG {

// Element (i, j) lies at data[i * row + j * col].
template <class T>
struct Strided {
  T* data;
  int64_t row, col;
  PINION_INLINE T& operator()(int64_t i, int64_t j) const { return data[i * row + j * col]; }
};

// What happens to a finished sum before it is stored.
template <class Out>
struct Epilogue {
  const Out* bias = nullptr;  // [n], or none
  Activation activation = Activation::none;
  bool accumulate = false;  // add what c held; without bias and activation only
  Out* pre = nullptr;       // for GELU: receives the value before it, at c's strides, or none
};

// c[m,n] = a[m,k] b[k,n]; c is row-major with row stride ldc.
template <class T, class Out>
void gemm(const CpuContext& ctx, int64_t m, int64_t n, int64_t k, Strided<const T> a,
          Strided<const T> b, Out* c, int64_t ldc, const Epilogue<Out>& epilogue = {});

// --- the building block: one panel of columns, Vectors registers wide ---------------------------

template <class Acc, int Vectors>
inline constexpr int64_t kPanelWidth = Vectors* kLanes<Acc>;

// Rows that lie `stride` elements apart.
template <class T>
struct Rows {
  T* data = nullptr;
  int64_t stride = 0;
};

// What happens to the sums of a panel before they are stored: + bias[width], ReLU, and ReLU's
// gradient, 0 where the gate is not above 0. All may be left out.
template <class Acc>
struct Finish {
  const Acc* bias = nullptr;
  bool relu = false;
  Rows<const Acc> gate;
};

// out = finish(start + a[rows, k] b[k, width]). No start is zero, and start may be out. Rows of b
// are ldb apart. With `tiled`, a is packed by pack_rows() in gemm.cpp and its strides do not count.
template <class Acc, int Vectors>
void multiply_panel(int64_t rows, int64_t k, Strided<const Acc> a, bool tiled, const Acc* b,
                    int64_t ldb, Rows<const Acc> start, Rows<Acc> out,
                    const Finish<Acc>& finish = {});

// Rows of an accumulator tile: as many registers as the rung has, less those that hold a row of b
// and the broadcast element of a; with one vector a row, enough to hide the latency of the FMA.
template <int Vectors>
inline constexpr int kTileRows = PINION_VECTOR_BYTES == 64   ? (Vectors == 1 ? 16 : 12)
                                 : PINION_VECTOR_BYTES == 32 ? (Vectors == 1 ? 8 : 6)
                                                             : (Vectors == 1 ? 8 : 4);
// What rows that do not fill a tile of `Rows` are left to.
template <int Rows>
inline constexpr int kNextTile = Rows > 8   ? 8
                                 : Rows > 4 ? 4
                                            : Rows - 1;

}  // namespace pinion::kernels::PINION_RUNG
