// SPDX-License-Identifier: Apache-2.0
// Shuffled orders of samples, and batches gathered by them.
#include "pinion/kernels/convert.h"
#include "pinion/kernels/cpu/permutation_lanes.h"
#include "pinion/kernels/cpu/row.h"
#include "pinion/kernels/kernels.h"
#include "pinion/kernels/lookup.h"

namespace pinion::kernels::PINION_RUNG {

void permute(const CpuContext& ctx, int64_t n, PhiloxKey key, int64_t first, View order) {
  const Permutation permutation(n, key);
  int64_t* out = order.as<int64_t>();
  constexpr int64_t L = kLanes<uint32_t>, kCost = 16;  // element-operations for an index
  for_rows(ctx, order.numel(), kCost, [=](int64_t begin, int64_t end, int64_t) {
    for (int64_t i = begin; i < end; i += L) {
      const Words words = permuted_lanes(permutation, first + i);
      const int64_t count = smaller(L, end - i);
      for (int64_t l = 0; l < count; ++l) out[i + l] = words[l];
    }
  });
}

void gather_cast(const CpuContext& ctx, ConstView x, ConstView index, View y) {
  const int64_t samples = x.shape[0], cols = x.cols(), n = index.numel(), width = y.cols();
  const int64_t* at = index.as<int64_t>();
  for_any(x.dtype, "gather_cast", [&]<class From>() {
    for_float(y.dtype, "gather_cast", [&]<class To>() {
      const From* from = x.as<From>();
      To* to = y.as<To>();
      for_rows(ctx, y.rows(), width, [=](int64_t begin, int64_t end, int64_t) {
        for (int64_t r = begin; r < end; ++r) {
          To* row = to + r * width;
          const int64_t there = r < n ? cols : 0;
          if (there) {
            if (static_cast<uint64_t>(at[r]) >= static_cast<uint64_t>(samples)) [[unlikely]]
              fail_lookup("gather_cast", at[r], samples);
            const From* source = from + at[r] * cols;
            for (int64_t c = 0; c < cols; ++c) row[c] = convert<To>(source[c]);
          }
          for (int64_t c = there; c < width; ++c) row[c] = convert<To>(0.0f);
        }
      });
    });
  });
}

}  // namespace pinion::kernels::PINION_RUNG
