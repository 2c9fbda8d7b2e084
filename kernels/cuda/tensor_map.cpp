// SPDX-License-Identifier: Apache-2.0
// Tensor maps, which tell TMA where a tile lies. The driver makes them; its function is looked up
// at run time, for a program must start where there is no driver.
#include "pinion/kernels/cuda/tensor_map.h"

#include "pinion/kernels/check.h"

namespace pinion::kernels::cuda {
namespace {

using Encode = decltype(&cuTensorMapEncodeTiled);

Encode encode_tiled() {
  static const Encode found = [] {
    constexpr unsigned kSince = 12000;  // the version of CUDA that has it
    void* f = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, kSince, cudaEnableDefault,
                                           &result),
          "cudaGetDriverEntryPointByVersion");
    PINION_REQUIRE(device, result == cudaDriverEntryPointSuccess && f,
                   "tensor map: expected a driver that has cuTensorMapEncodeTiled, got result ",
                   static_cast<int>(result));
    return reinterpret_cast<Encode>(f);
  }();
  return found;
}

}  // namespace

CUtensorMap map_tiles(const TiledMatrices& x, int box_lines) {
  constexpr int kRank = 3;
  constexpr int64_t kElement = 2;  // bytes
  const cuuint64_t extents[kRank] = {static_cast<cuuint64_t>(x.length),
                                     static_cast<cuuint64_t>(x.lines),
                                     static_cast<cuuint64_t>(x.matrices)};
  const cuuint64_t distances[kRank - 1] = {static_cast<cuuint64_t>(x.line * kElement),
                                           static_cast<cuuint64_t>(x.matrix * kElement)};
  const cuuint32_t box[kRank] = {kLineElements, static_cast<cuuint32_t>(box_lines), 1};
  const cuuint32_t each[kRank] = {1, 1, 1};
  CUtensorMap map;
  const CUresult status = encode_tiled()(
      &map, x.bfloat ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, kRank,
      const_cast<void*>(x.data), extents, distances, box, each, CU_TENSOR_MAP_INTERLEAVE_NONE,
      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  PINION_REQUIRE(device, status == CUDA_SUCCESS, "tensor map: expected success for matrices [",
                 x.matrices, ", ", x.lines, ", ", x.length, "], got CUresult ",
                 static_cast<int>(status));
  return map;
}

}  // namespace pinion::kernels::cuda
