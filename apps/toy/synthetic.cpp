// SPDX-License-Identifier: Apache-2.0
// Draws the toy problem from the counter-based generator: a pure function of its options.
#include "pinion/apps/toy/synthetic.h"

#include <cmath>

#include "pinion/accel/data/sampler.h"
#include "pinion/kernels/kernels.h"

namespace pinion::toy {

namespace {

// The generator's stream of the features ("synt" in ASCII).
constexpr uint32_t kFeatureStream = 0x73796e74;

}  // namespace

accel::TensorDataset make_synthetic(const SyntheticOptions& o) {
  PINION_REQUIRE(usage, o.features >= 2, "--features: expected at least 2, got ", o.features);
  PINION_REQUIRE(usage, o.samples >= 1, "--samples: expected at least 1, got ", o.samples);
  PINION_REQUIRE(usage, o.noise >= 0 && o.noise <= 1, "--noise: expected a share from 0 to 1, got ",
                 o.noise);
  Tensor x({o.samples, o.features});
  on(x.device(), [&](auto& ctx) {
    kernels::normal(ctx, x.mut(), PhiloxKey{o.seed, kFeatureStream, 0}, 0.0, 1.0);
  });
  Tensor y({o.samples}, DType::i64);
  const float* row = x.view().as<float>();
  int64_t* label = y.mut().as<int64_t>();
  for (int64_t i = 0; i < o.samples; ++i, row += o.features) label[i] = row[0] + row[1] > 0 ? 1 : 0;
  accel::Order order(o.samples, true, o.seed, accel::OrderUse::noise);
  const int64_t flipped = std::llround(o.noise * static_cast<double>(o.samples));
  for (const int64_t i : order.take(0, flipped)) label[i] = 1 - label[i];
  return {x, y};
}

}  // namespace pinion::toy
