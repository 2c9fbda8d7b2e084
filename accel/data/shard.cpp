// SPDX-License-Identifier: Apache-2.0
#include "pinion/accel/data/shard.h"

#include <algorithm>

#include "pinion/kernels/check.h"

namespace pinion::accel {

namespace {

int64_t batch_of_a_rank(int64_t batch_size, const Shard& shard) {
  PINION_CHECK(shard.ranks >= 1 && shard.rank >= 0 && shard.rank < shard.ranks,
               "DataLoader: expected 0 <= rank < ranks, got rank ", shard.rank, " of ",
               shard.ranks);
  if (!shard.split_batches) return batch_size;
  PINION_REQUIRE(config, batch_size % shard.parts() == 0,
                 "DataLoader: with split_batches, expected a batch_size that is a multiple of ",
                 shard.parts(), shard.turns > 1 ? " virtual shards, got " : " ranks, got ",
                 batch_size);
  return batch_size / shard.parts();
}

}  // namespace

ShardPlan::ShardPlan(int64_t samples, int64_t batch_size, bool drop_last, const Shard& shard)
    : samples_(samples),
      batch_(batch_of_a_rank(batch_size, shard)),
      drop_last_(drop_last),
      shard_(shard),
      rounds_(samples / round() + (drop_last || samples % round() == 0 ? 0 : 1)) {}

bool ShardPlan::has(int64_t begin) const {
  return drop_last_ ? samples_ - begin >= round() : begin < samples_;
}

int64_t ShardPlan::after(int64_t begin) const { return std::min(samples_, begin + round()); }

ShardBatch ShardPlan::of(int64_t begin, int rank, int turn) const {
  const int64_t mine = begin + (turn * shard_.ranks + rank) * batch_;
  const int64_t real = std::clamp(samples_ - mine, int64_t{0}, batch_);
  if (shard_.parts() == 1) return {mine, real, real};
  return {mine, shard_.even_batches ? batch_ : std::max(real, int64_t{1}), real};
}

int64_t ShardPlan::weight(int64_t begin, int rank, int turn) const {
  const ShardBatch batch = of(begin, rank, turn);
  return shard_.even_batches ? batch.rows : batch.real;
}

int64_t ShardPlan::total_weight(int64_t begin) const {
  int64_t sum = 0;
  for (int turn = 0; turn < shard_.turns; ++turn)
    for (int r = 0; r < shard_.ranks; ++r) sum += weight(begin, r, turn);
  return sum;
}

}  // namespace pinion::accel
