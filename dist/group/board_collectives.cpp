// SPDX-License-Identifier: Apache-2.0
// The rounds of a collective: post, work, collect.
#include <algorithm>
#include <cstring>

#include "pinion/dist/group/board_pending.h"
#include "pinion/dist/group/reduce.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {

// Up to this size every rank reduces everything for itself: one meeting instead of two.
constexpr int64_t kOneShot = 32 << 10;

// Whether rank r's input is read by others.
bool gives(const Call& call, int r) {
  return call.operation != Operation::barrier &&
         (call.operation != Operation::broadcast || call.peer == r);
}

std::byte* data_of(Tensor& t) { return static_cast<std::byte*>(t.mut().data); }

void move_bytes(std::byte* to, const std::byte* from, int64_t count) {
  if (to != from && count > 0) std::memcpy(to, from, static_cast<size_t>(count));
}

// Slice r of `count` elements; slices begin on cache lines.
int64_t slice_begin(int64_t count, int r, int ranks) {
  constexpr int64_t kLine = 64;
  return std::min(count, (count * r / ranks + kLine - 1) / kLine * kLine);
}

}  // namespace

bool BoardGroup::all_posted(uint64_t rounds) const {
  for (int r = 0; r < size_; ++r)
    if (board_.rank(r).posted.load() < rounds) return false;
  return true;
}

bool BoardGroup::all_finished(uint64_t rounds) const {
  for (int r = 0; r < size_; ++r)
    if (board_.rank(r).finished.load() < rounds) return false;
  return true;
}

// Decides how, and shows the call to the others. The tensors of the present collective of another
// rank are looked at between its first post and its end; two are kept, because a rank may be one
// collective ahead.
void BoardGroup::show(Collective& c) {
  Board::Rank& me = board_.rank(rank_);
  const Operation operation = c.call.operation;
  const bool blocks = operation == Operation::reduce_scatter || operation == Operation::all_to_all;
  c.blocks = blocks ? size_ : 1;
  c.block = operation == Operation::barrier ? 0 : c.call.count / c.blocks;
  const bool small = c.bytes() <= kOneShot;
  c.shared = operation == Operation::all_reduce && !small;
  const int64_t at =
      c.call.input.defined() && !small ? where(c.call.input.view().data) : Board::kPrivate;
  c.direct = at != Board::kPrivate;
  c.step = std::max<int64_t>(1, Board::kChunk / size_of(c.call.dtype) / c.blocks);
  c.rounds = std::max<uint64_t>(1, static_cast<uint64_t>((c.block + c.step - 1) / c.step));
  c.index = me.collectives.load();
  me.present[c.index % 2] = {c.header, at};
  me.collectives.store(c.index + 1);
  c.first = next_round_;
  c.begun = true;
}

// All have shown their call.
void BoardGroup::meet(Collective& c) {
  const auto& first = board_.rank(0).present[c.index % 2];
  bool all_direct = c.call.operation != Operation::barrier;
  for (int r = 0; r < size_; ++r) {
    const auto& other = board_.rank(r).present[c.index % 2];
    if (!other.header.matches(first.header)) fail_desync(0, first.header, r, other.header);
    c.where.push_back(other.where);
    if (gives(c.call, r)) all_direct &= other.where != Board::kPrivate;
  }
  if (all_direct) c.rounds = 1, c.step = std::max<int64_t>(1, c.block);
  c.met = true;
}

bool BoardGroup::advance(Collective& c) {
  if (!c.begun) show(c);
  for (bool moved = true; moved;) {
    moved = false;
    // Only a rank whose own data is staged knows the number of rounds before all have met.
    const bool known = c.met || (!c.direct && gives(c.call, rank_));
    const uint64_t to_post = known ? c.rounds : 1, round = c.first + c.posted;
    const bool free = round < Board::kDepth || all_finished(round + 1 - Board::kDepth);
    if (c.posted < to_post && c.posted - c.collected < Board::kDepth && free) post(c), moved = true;
    if (c.worked < c.posted && all_posted(c.first + c.worked + 1)) work(c), moved = true;
    const bool wait = c.shared || (c.direct && gives(c.call, rank_));
    if (c.collected < c.worked && (!wait || all_finished(c.first + c.collected + 1)))
      collect(c), moved = true;
    if (moved && !rang_) board_.ring(rank_), rang_ = true;
    if (c.met && c.collected == c.rounds) {
      next_round_ += c.rounds;
      return true;
    }
  }
  return false;
}

void BoardGroup::post(Collective& c) {
  const int64_t size = size_of(c.call.dtype), begin = static_cast<int64_t>(c.posted) * c.step;
  const int64_t count = std::min(c.step, c.block - begin);
  if (!c.direct && gives(c.call, rank_)) {
    const auto* input = static_cast<const std::byte*>(c.call.input.view().data);
    std::byte* slot = board_.slot(rank_, c.first + c.posted);
    for (int b = 0; b < c.blocks; ++b)
      move_bytes(slot + b * c.step * size, input + (b * c.block + begin) * size, count * size);
  }
  board_.rank(rank_).posted.store(c.first + ++c.posted);
  rang_ = false;
}

void BoardGroup::work(Collective& c) {
  if (!c.met) meet(c);
  if (c.call.operation == Operation::all_reduce || c.call.operation == Operation::reduce_scatter)
    reduce_pieces(c, c.worked);
  else
    copy_pieces(c, c.worked);
  board_.rank(rank_).finished.store(c.first + ++c.worked);
  rang_ = false;
}

// Where the data of `rank` for block `block` lies in this round.
std::byte* BoardGroup::piece(const Collective& c, int rank, int block, uint64_t round) const {
  const int64_t size = size_of(c.call.dtype), at = c.where[static_cast<size_t>(rank)];
  if (at == Board::kPrivate) return board_.slot(rank, c.first + round) + block * c.step * size;
  return base_ + at + (block * c.block + static_cast<int64_t>(round) * c.step) * size;
}

void BoardGroup::reduce_pieces(Collective& c, uint64_t round) {
  const int64_t size = size_of(c.call.dtype), begin = static_cast<int64_t>(round) * c.step;
  const int64_t count = std::min(c.step, c.block - begin);
  const int64_t low = c.shared ? slice_begin(count, rank_, size_) : 0;
  const int64_t high = c.shared ? slice_begin(count, rank_ + 1, size_) : count;
  std::vector<const void*> in;
  std::vector<void*> out;
  for (int r = 0; r < size_; ++r) {
    std::byte* from = piece(c, r, c.blocks == 1 ? 0 : rank_, round) + low * size;
    in.push_back(from);
    if (c.shared) out.push_back(from);
  }
  if (!c.shared) out.push_back(data_of(c.call.output) + begin * size);
  reduce(c.call.reduce, c.call.dtype, in, out, high - low);
}

void BoardGroup::copy_pieces(Collective& c, uint64_t round) {
  if (c.call.operation == Operation::barrier) return;
  const int64_t size = size_of(c.call.dtype), begin = static_cast<int64_t>(round) * c.step;
  const int64_t count = std::min(c.step, c.block - begin);
  std::byte* output = data_of(c.call.output) + begin * size;
  if (c.call.operation == Operation::broadcast) {
    if (rank_ != c.call.peer) move_bytes(output, piece(c, c.call.peer, 0, round), count * size);
    return;
  }
  for (int r = 0; r < size_; ++r)
    move_bytes(output + r * c.block * size, piece(c, r, c.blocks == 1 ? 0 : rank_, round),
               count * size);
}

// What the others left in this rank's staging memory.
void BoardGroup::collect(Collective& c) {
  if (c.shared && !c.direct) {
    const int64_t size = size_of(c.call.dtype), begin = static_cast<int64_t>(c.collected) * c.step;
    move_bytes(data_of(c.call.output) + begin * size, piece(c, rank_, 0, c.collected),
               std::min(c.step, c.block - begin) * size);
  }
  ++c.collected;
}

}  // namespace pinion::dist
