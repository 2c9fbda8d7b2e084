// SPDX-License-Identifier: Apache-2.0
// Element-wise arithmetic and selection.
#include "pinion/kernels/cpu/map.h"

namespace pinion::kernels::PINION_RUNG {

void add(const CpuContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "add", formulas::Add{}, a, b, y);
}
void subtract(const CpuContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "subtract", formulas::Subtract{}, a, b, y);
}
void multiply(const CpuContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "multiply", formulas::Multiply{}, a, b, y);
}
void divide(const CpuContext& ctx, ConstView a, ConstView b, View y) {
  map2(ctx, "divide", formulas::Divide{}, a, b, y);
}
void divide_backward_b(const CpuContext& ctx, ConstView a, ConstView b, ConstView dy, View db) {
  for_float(db.dtype, "divide_backward_b", [&]<class T>() {
    map(ctx, db.numel(), formulas::DivideBackwardB{}, db.as<T>(), a.as<T>(), b.as<T>(), dy.as<T>());
  });
}

void affine(const CpuContext& ctx, ConstView x, double scale, double shift, View y) {
  map1(ctx, "affine", formulas::Affine{scale, shift}, x, y);
}
void scale_by(const CpuContext& ctx, ConstView x, ConstView s, View y) {
  map1(ctx, "scale_by", formulas::Affine{read_number(s), 0}, x, y);
}
void clamp(const CpuContext& ctx, ConstView x, double lo, double hi, View y) {
  map1(ctx, "clamp", formulas::Clamp{lo, hi}, x, y);
}

void masked_fill(const CpuContext& ctx, ConstView x, ConstView mask, double value, View y) {
  for_float(y.dtype, "masked_fill", [&]<class T>() {
    using A = Accumulator<T>;
    const A fill = static_cast<A>(value);
    const auto choose = [fill](Packet<T> v, auto m) __attribute__((always_inline)) {
      return math::select(m, splat(fill), v);
    };
    map(ctx, y.numel(), choose, y.as<T>(), x.as<T>(), MaskCursor<A>{mask.as<bool>()});
  });
}

}  // namespace pinion::kernels::PINION_RUNG
