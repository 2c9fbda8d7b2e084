// SPDX-License-Identifier: Apache-2.0
// Tensor maps of matrices in device memory, for the tile copies of hopper.cuh.
#pragma once

#include <cuda.h>

#include "pinion/kernels/cuda/context.cuh"

namespace pinion::kernels::cuda {

inline constexpr int kLineBytes = 128;  // of a tile in shared memory
inline constexpr int kLineElements = 64;

// Matrices [lines, length] of 16-bit elements, contiguous along `length`; `line` and `matrix` are
// the elements from one to the next. Addresses and distances are multiples of 16 bytes.
struct TiledMatrices {
  const void* data;
  bool bfloat;
  int64_t matrices, lines, length, line, matrix;
};
// Its boxes are `box_lines` lines of kLineElements elements. Throws Error (device).
CUtensorMap map_tiles(const TiledMatrices& x, int box_lines);

}  // namespace pinion::kernels::cuda
