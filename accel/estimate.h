// SPDX-License-Identifier: Apache-2.0
// How much memory training takes on each rank, known before it starts: the algebra of ZeRO over the
// layout that optimizers really use, and the activations of an MLP, tensor by tensor.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pinion/nn/amp.h"

namespace pinion::accel {

struct EstimateOptions {
  std::string optimizer = "adam";  // adam, adamw, sgd, or sgd+momentum
  nn::Precision precision = nn::Precision::no;
  int64_t ranks = 1;
  int zero_stage = 0;       // 1 shards optimizer state, 2 gradients too, 3 parameters too
  int64_t batch_size = 32;  // of one rank
  int64_t bucket_bytes =
      25 << 20;  // of gradients that are reduced, or parameters gathered, at once
};

// Bytes of one rank at the peak of a training step.
struct MemoryEstimate {
  int64_t parameters = 0;  // f32, and with autocast their 16-bit copies
  int64_t gradients = 0;
  int64_t optimizer = 0;
  int64_t activations = 0;  // what forward keeps for backward, and the gradients on their way
  int64_t buckets = 0;      // of ZeRO 2 and 3: what is gathered or reduced and not yet a shard
  int64_t total() const { return parameters + gradients + optimizer + activations + buckets; }
};

// `parameters` holds the elements of each. Throws Error (usage) for options that cannot be.
MemoryEstimate estimate_memory(std::span<const int64_t> parameters, const EstimateOptions& options);

// A multi-layer perceptron, as apps/toy has: linear layers with bias and ReLU between them, and
// cross_entropy. `widths` are those of the input, of every hidden layer and of the output.
std::vector<int64_t> mlp_parameters(std::span<const int64_t> widths);
int64_t mlp_activations(std::span<const int64_t> widths, const EstimateOptions& options);

}  // namespace pinion::accel
