// SPDX-License-Identifier: Apache-2.0
// The layout of the board, bells over futexes, and the reason for a broken group.
#include "pinion/dist/group/board.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <climits>
#include <cstring>
#include <ctime>

#include "pinion/kernels/check.h"

namespace pinion::dist {

struct Board::Head {
  static constexpr uint32_t kWriting = 1, kWritten = 2;
  std::atomic<uint32_t> state;
  std::atomic<uint32_t> kind;
  char reason[2040];  // ends in a zero
};

namespace {

constexpr int64_t kPage = 4096;
constexpr int64_t pages(size_t bytes) {
  return (static_cast<int64_t>(bytes) + kPage - 1) / kPage * kPage;
}

// Where things lie, from the beginning of the memory.
struct Layout {
  int64_t ranks, channels, slots, mail_slots, end;

  Layout(int count, size_t head, size_t rank, size_t channel) {
    const auto n = static_cast<size_t>(count);
    ranks = pages(head);
    channels = ranks + pages(n * rank);
    slots = channels + pages(n * n * channel);
    mail_slots = slots + static_cast<int64_t>(n * Board::kDepth) * Board::kChunk;
    end = mail_slots + static_cast<int64_t>(n * n * Board::kMailDepth) * Board::kChunk;
  }
};

// Not the private kind of futex: the sleeper may be another process.
void wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

int64_t Board::bytes(int ranks) {
  return Layout(ranks, sizeof(Head), sizeof(Rank), sizeof(Channel)).end;
}

Board::Board(void* memory, int ranks) : ranks_(ranks) {
  const Layout at(ranks, sizeof(Head), sizeof(Rank), sizeof(Channel));
  auto* bytes = static_cast<std::byte*>(memory);
  head_ = reinterpret_cast<Head*>(bytes);
  rank_lines_ = reinterpret_cast<Rank*>(bytes + at.ranks);
  channels_ = reinterpret_cast<Channel*>(bytes + at.channels);
  slots_ = bytes + at.slots;
  mail_slots_ = bytes + at.mail_slots;
}

void Board::ring(int me) const {
  for (int r = 0; r < ranks_; ++r) {
    if (r == me || !rank(r).sleeping.load()) continue;
    rank(r).bell.fetch_add(1);
    wake(rank(r).bell);
  }
}

void Board::sleep(int me, uint32_t bell, std::chrono::nanoseconds most) const {
  const timespec limit{static_cast<time_t>(most.count() / 1'000'000'000),
                       static_cast<long>(most.count() % 1'000'000'000)};
  syscall(SYS_futex, &rank(me).bell, FUTEX_WAIT, bell, &limit, nullptr, 0);
}

void Board::abort(ErrorKind kind, std::string_view reason) const noexcept {
  uint32_t none = 0;
  if (head_->state.compare_exchange_strong(none, Head::kWriting)) {
    const size_t size = std::min(reason.size(), sizeof head_->reason - 1);
    std::memcpy(head_->reason, reason.data(), size);
    head_->reason[size] = '\0';
    head_->kind.store(static_cast<uint32_t>(kind));
    head_->state.store(Head::kWritten);
  }
  for (int r = 0; r < ranks_; ++r) {
    rank(r).bell.fetch_add(1);
    wake(rank(r).bell);
  }
}

bool Board::broken() const { return head_->state.load() == Head::kWritten; }

Error Board::error() const {
  return Error(static_cast<ErrorKind>(head_->kind.load()), head_->reason);
}

}  // namespace pinion::dist
