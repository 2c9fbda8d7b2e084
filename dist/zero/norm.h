// SPDX-License-Identifier: Apache-2.0
// The sum of squares of gradients that lie in pieces on all ranks, with bits that do not depend on
// the number of pieces: cells of 64 elements are summed alike wherever they are, those of a block
// of 64 Ki elements are added in their order, and blocks in theirs.
#pragma once

#include <vector>

#include "pinion/dist/zero/layout.h"
#include "pinion/optim/optimizer.h"

namespace pinion::dist {

inline constexpr int64_t kNormBlock = 65536;

class NormSum {
 public:
  NormSum(int rank, int ranks) : rank_(rank), ranks_(ranks) {}

  // This rank's piece [n] of a segment of ranks * n elements; n is a multiple of kNormCell. On a
  // GPU, where a block would be a launch, a piece is one block, and the bits depend on the ranks.
  void add(const Tensor& piece);
  // To be added up over the ranks, element by element: a number for each block that one rank has,
  // for each cell of the others, and how many elements are not finite.
  std::vector<double> numbers() const;
  // What the sums of everyone's numbers() come to.
  optim::GradStats total(const std::vector<double>& sums) const;

 private:
  struct Block {
    size_t first, count;  // in squares_
  };
  void add_on_device(const Tensor& piece);

  int rank_, ranks_;
  std::vector<double> squares_;
  std::vector<Block> blocks_;
  double nonfinite_ = 0;
};

}  // namespace pinion::dist
