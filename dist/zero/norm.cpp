// SPDX-License-Identifier: Apache-2.0
#include "pinion/dist/zero/norm.h"

#include <algorithm>
#include <cmath>

#include "pinion/kernels/dispatch.h"
#include "pinion/kernels/kernels.h"

namespace pinion::dist {
namespace {

// A cell with elements that are not finite has no squares: infinities would make NaN of a sum, and
// the count says it all.
template <class T>
double squares_of_cell(const T* x, double& nonfinite) {
  constexpr int kLanes = 8;  // of independent sums, so that additions need not wait
  double sums[kLanes] = {};
  for (int64_t i = 0; i < kNormCell; i += kLanes)
    for (int lane = 0; lane < kLanes; ++lane) {
      const auto value = static_cast<double>(static_cast<Accumulator<T>>(x[i + lane]));
      sums[lane] += value * value;
    }
  double sum = 0;
  for (const double s : sums) sum += s;
  if (std::isfinite(sum)) return sum;
  const auto bad = std::count_if(x, x + kNormCell, [](T v) {
    return !std::isfinite(static_cast<double>(static_cast<Accumulator<T>>(v)));
  });
  nonfinite += static_cast<double>(bad);
  return bad > 0 ? 0 : sum;
}

}  // namespace

void NormSum::add(const Tensor& piece) {
  if (piece.device() != Device{}) return add_on_device(piece);
  const int64_t count = piece.numel(), size = count * ranks_, mine = rank_ * count;
  for_float(piece.dtype(), "gradient norm", [&]<class T>() {
    const T* x = piece.view().as<T>();
    for (int64_t begin = 0; begin < size; begin += kNormBlock) {
      const int64_t end = std::min(begin + kNormBlock, size);
      const bool whole = begin / count == (end - 1) / count;
      blocks_.push_back(
          {squares_.size(), whole ? 1 : static_cast<size_t>((end - begin) / kNormCell)});
      squares_.resize(squares_.size() + blocks_.back().count, 0.0);
      double* out = squares_.data() + blocks_.back().first;
      const int64_t first = std::max(begin, mine), last = std::min(end, mine + count);
      for (int64_t at = first; at < last; at += kNormCell)
        out[whole ? 0 : (at - begin) / kNormCell] += squares_of_cell(x + at - mine, nonfinite_);
    }
  });
}

void NormSum::add_on_device(const Tensor& piece) {
  Tensor found({2}, DType::f64, piece.device());
  on(piece.device(), [&](auto& ctx) { kernels::squares_and_nonfinite(ctx, piece, found.mut()); });
  const std::vector<double> values = found.values<double>();
  blocks_.push_back({squares_.size(), static_cast<size_t>(ranks_)});
  squares_.resize(squares_.size() + static_cast<size_t>(ranks_), 0.0);
  squares_[blocks_.back().first + static_cast<size_t>(rank_)] = values[1] > 0 ? 0 : values[0];
  nonfinite_ += values[1];
}

std::vector<double> NormSum::numbers() const {
  std::vector<double> out = squares_;
  out.push_back(nonfinite_);
  return out;
}

optim::GradStats NormSum::total(const std::vector<double>& sums) const {
  optim::GradStats out{0, sums.back()};
  for (const Block& block : blocks_) {
    double squares = 0;
    for (size_t i = 0; i < block.count; ++i) squares += sums[block.first + i];
    out.squares += squares;
  }
  return out;
}

}  // namespace pinion::dist
