// SPDX-License-Identifier: Apache-2.0
// The algebra of training memory.
#include "pinion/accel/estimate.h"

#include <algorithm>

#include "pinion/kernels/check.h"
#include "pinion/optim/arena.h"
#include "pinion/runtime/checked.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr int64_t kF32 = 4, kLow = 2;                // bytes of an element
constexpr int64_t kMostElements = int64_t{1} << 50;  // keeps every sum below far from overflow

// Blocks of optimizer state, each as large as the parameters.
int64_t states_of(std::string_view optimizer) {
  if (optimizer == "adam" || optimizer == "adamw") return 2;
  if (optimizer == "sgd+momentum") return 1;
  PINION_REQUIRE(usage, optimizer == "sgd",
                 "optimizer: expected adam, adamw, sgd or sgd+momentum, got ", quoted(optimizer));
  return 0;
}

int64_t divided(int64_t bytes, int64_t ranks) { return (bytes + ranks - 1) / ranks; }

void check(const EstimateOptions& o) {
  PINION_REQUIRE(usage, o.ranks >= 1 && o.ranks <= 65536, "ranks: expected 1 to 65536, got ",
                 o.ranks);
  PINION_REQUIRE(usage, o.zero_stage >= 0 && o.zero_stage <= 3, "zero_stage: expected 0 to 3, got ",
                 o.zero_stage);
  PINION_REQUIRE(usage, o.batch_size >= 1 && o.batch_size <= (1 << 30),
                 "batch_size: expected 1 to 2^30, got ", o.batch_size);
  PINION_REQUIRE(usage, o.bucket_bytes >= 1, "bucket_bytes: expected at least 1, got ",
                 o.bucket_bytes);
}

// Keeps the books of one step.
struct Books {
  int64_t live = 0, peak = 0;
  void take(int64_t bytes) { peak = std::max(peak, live += bytes); }
  void give(int64_t bytes) { live -= bytes; }
};

}  // namespace

MemoryEstimate estimate_memory(std::span<const int64_t> parameters, const EstimateOptions& o) {
  check(o);
  const int64_t states = states_of(o.optimizer);
  int64_t elements = 0, largest = 0, flat = 0;  // flat: with each parameter padded to a cache line
  const int64_t unit = optim::Arena::kAlignment / kF32;
  for (const int64_t n : parameters) {
    PINION_REQUIRE(usage, n >= 0 && n < kMostElements && elements < kMostElements,
                   "parameters: expected sizes that fit in memory, got ", n);
    elements += n;
    largest = std::max(largest, n);
    flat += (n + unit - 1) / unit * unit;
  }
  const int64_t bytes = flat * kF32;
  const int64_t bucket = o.ranks == 1 ? 0 : std::min(o.bucket_bytes, bytes);
  // An optimizer keeps the 16-bit copy beside its parameters. With ZeRO autocast rounds each anew,
  // the largest one while its old copy is still there; and at stage 3 only what is gathered.
  int64_t copies = o.precision == nn::Precision::no ? 0 : flat * kLow;
  if (copies > 0 && o.zero_stage >= 1 && o.ranks > 1) copies = (elements + largest) * kLow;
  if (o.zero_stage >= 3 && o.ranks > 1) copies = std::min(copies, bucket / 2);
  MemoryEstimate e;
  e.parameters = (o.zero_stage >= 3 ? divided(bytes, o.ranks) : bytes) + copies;
  e.gradients = o.zero_stage >= 2 ? divided(bytes, o.ranks) : bytes;
  e.optimizer = states * (o.zero_stage >= 1 ? divided(bytes, o.ranks) : bytes);
  e.buckets = (o.zero_stage >= 2 ? bucket : 0) + (o.zero_stage >= 3 ? bucket : 0);
  return e;
}

std::vector<int64_t> mlp_parameters(std::span<const int64_t> widths) {
  PINION_REQUIRE(usage, widths.size() >= 2, "layers: expected at least two widths, got ",
                 widths.size());
  std::vector<int64_t> out;
  for (size_t i = 0; i < widths.size(); ++i) {
    PINION_REQUIRE(usage, widths[i] >= 1 && widths[i] <= (1 << 24),
                   "layers: expected widths of 1 to 2^24, got ", widths[i]);
    if (i > 0) out.insert(out.end(), {widths[i] * widths[i - 1], widths[i]});
  }
  return out;
}

// Walks through a step as autograd does: each layer keeps its output for backward, which has the
// gradient of a layer's output, of what was before its ReLU, and of its input at once.
int64_t mlp_activations(std::span<const int64_t> widths, const EstimateOptions& o) {
  const bool low = o.precision != nn::Precision::no;
  const int64_t element = low ? kLow : kF32;
  const size_t last = widths.size() - 1;
  const auto bytes = [&](size_t layer) { return o.batch_size * widths[layer] * element; };
  const int64_t wide = o.batch_size * widths[last] * kF32;
  Books books;
  if (low) books.take(bytes(0));  // the batch in 16 bit
  for (size_t i = 1; i <= last; ++i) books.take(bytes(i));
  if (low) books.take(wide);  // the loss is computed in f32
  books.take(wide);           // the gradient of the logits
  if (low) {
    books.take(bytes(last));
    books.give(2 * wide);
  }
  for (size_t i = last; i >= 1; --i) {
    const int64_t weights = low ? (widths[i] * widths[i - 1] + widths[i]) * kLow : 0;
    if (i < last) books.take(bytes(i));
    if (i > 1) books.take(bytes(i - 1));
    books.take(weights);  // gradients of the 16-bit copies, until they are added in f32
    books.give(weights);
    books.give(i < last ? 3 * bytes(i) : bytes(i));  // of the logits their user has a handle
  }
  return books.peak;
}

}  // namespace pinion::accel
