// SPDX-License-Identifier: Apache-2.0
// Which samples of an epoch a rank sees. The ranks walk the order of the epoch together, a round at
// a time; in a round every rank has the next `batch` positions, rank by rank, and so in each of the
// round's turns, of which there is one unless shards are virtual. All of it is arithmetic on
// positions, so any rank knows what every other one has, without asking.
#pragma once

#include <cstdint>

namespace pinion::accel {

struct Shard {
  int rank = 0, ranks = 1;
  // false: batch_size is that of a rank, and ranks * batch_size samples make a round; true: it is
  // the round's, a multiple of the ranks.
  bool split_batches = false;
  // true: where the samples end inside a round, the epoch is continued from its beginning, so that
  // all batches have one size (with one rank they never are). false: the last batches are short,
  // and a rank for which none are left gets one sample of weight 0.
  bool even_batches = true;
  int turns = 1;  // batches that a rank has of a round, one after another
  int parts() const { return ranks * turns; }
};

// What a rank has of the round that begins at position `begin`.
struct ShardBatch {
  int64_t begin = 0;  // the first position; position p is sample p mod N of the order
  int64_t rows = 0;   // samples in the batch, at least 1
  int64_t real = 0;   // those that nobody else has in this epoch: the first ones
};

class ShardPlan {
 public:
  // Throws Error (config) when batch_size is no multiple of the ranks but must be.
  ShardPlan(int64_t samples, int64_t batch_size, bool drop_last, const Shard& shard);

  const Shard& shard() const { return shard_; }
  int64_t batch() const { return batch_; }                   // of a rank
  int64_t round() const { return batch_ * shard_.parts(); }  // of all ranks
  int64_t rounds() const { return rounds_; }                 // in an epoch; the same on every rank
  bool has(int64_t begin) const;                             // whether a round begins there
  int64_t after(int64_t begin) const;                        // the position behind the round
  bool is_last(int64_t begin) const { return !has(after(begin)); }
  ShardBatch of(int64_t begin, int rank, int turn = 0) const;
  // What the loss of a rank's batch counts for, and the sum of it over the ranks: samples, with
  // those that were taken from the beginning, as they are trained on like the others.
  int64_t weight(int64_t begin, int rank, int turn = 0) const;
  int64_t total_weight(int64_t begin) const;

 private:
  int64_t samples_, batch_;
  bool drop_last_;
  Shard shard_;
  int64_t rounds_;
};

}  // namespace pinion::accel
