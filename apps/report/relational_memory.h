// SPDX-License-Identifier: Apache-2.0
// The relational memory of R2Gen: a few slots that each word of a report updates in turn, through
// attention and gates. Chen et al. 2020, section 2.2.
#pragma once

#include "pinion/apps/report/transformer.h"

namespace pinion::report {

// With M the memory [S,C] and y a word's embedding [C]:
//   A = M + attention(M; [M; y]),  A = A + relu(mlp(A)),  [i f] = W y + U tanh(M),
//   M = sigmoid(i) tanh(A) + sigmoid(f) M
// from M = the first S rows of the identity.
struct RelationalMemory : nn::Module {
  Attention attn;
  TwoLinear mlp;
  nn::Linear W, U;

  RelationalMemory(int64_t width, int64_t heads, int64_t slots);
  int64_t slots() const { return slots_; }
  Tensor initial(int64_t batch) const;                    // [B,S,C]
  Tensor step(const Tensor& memory, const Tensor& word);  // [B,S,C], [B,C] -> [B,S,C]
  // The memory after each of the words [B,T,C] -> [B,T,S C], as one op with a backward pass of its
  // own. It works in the type of the parameters, whatever autocast says: roundings would go from
  // word to word through the whole report, for products of too few rows to gain much by 16 bits.
  Tensor operator()(const Tensor& words);
  // The same by step(): what the op is compared with, and the way of 16-bit parameters.
  Tensor by_steps(const Tensor& words);
  void fields(nn::Fields& f) override;

 private:
  int64_t slots_, heads_;
};

}  // namespace pinion::report
