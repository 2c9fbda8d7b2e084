// SPDX-License-Identifier: Apache-2.0
// Send and receive: a channel for each pair of ranks, whose messages keep their order. Small ones
// are on their way as soon as they are sent; the rest moves while both ranks make progress.
#include <algorithm>
#include <cstring>

#include "pinion/dist/group/board_pending.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

namespace {
constexpr int64_t kBuffered = 32 << 10;  // up to this size the sender does not wait for a reader
}

bool BoardGroup::advance(Message& m) {
  // Messages between the same two ranks in the same direction go one after the other.
  for (const auto& earlier : messages_) {
    if (earlier.get() == &m) break;
    if (earlier->sending() == m.sending() && earlier->call.peer == m.call.peer) return false;
  }
  if (m.chunks == 0)
    m.chunks = std::max<uint64_t>(
        1, static_cast<uint64_t>((m.bytes() + Board::kChunk - 1) / Board::kChunk));
  return m.sending() ? advance_send(m) : advance_receive(m);
}

bool BoardGroup::advance_send(Message& m) {
  Board::Channel& channel = board_.channel(rank_, m.call.peer);
  const auto* data = static_cast<const std::byte*>(m.call.input.view().data);
  const int64_t at = m.bytes() <= kBuffered ? Board::kPrivate : where(data);
  const bool direct = at != Board::kPrivate;
  if (direct) m.chunks = 1;
  while (m.moved < m.chunks) {
    const uint64_t index = channel.sent.load();
    if (index - channel.received.load() >= Board::kMailDepth) return false;
    channel.parcels[index % Board::kMailDepth] = {m.header, at};
    const int64_t begin = static_cast<int64_t>(m.moved) * Board::kChunk;
    const int64_t bytes = std::min(Board::kChunk, m.bytes() - begin);
    if (!direct && bytes > 0)
      std::memcpy(board_.mail_slot(rank_, m.call.peer, index), data + begin,
                  static_cast<size_t>(bytes));
    channel.sent.store(index + 1);
    m.complete_at = direct ? index + 1 : 0;
    ++m.moved;
    rang_ = false;
  }
  return channel.received.load() >= m.complete_at;
}

bool BoardGroup::advance_receive(Message& m) {
  Board::Channel& channel = board_.channel(m.call.peer, rank_);
  while (m.moved < m.chunks) {
    const uint64_t index = channel.received.load();
    if (channel.sent.load() == index) return false;
    const Board::Posted& parcel = channel.parcels[index % Board::kMailDepth];
    if (parcel.header.dtype != m.call.dtype || parcel.header.count != m.call.count)
      fail_desync(m.call.peer, parcel.header, rank_, m.header);
    const bool direct = parcel.where != Board::kPrivate;
    if (direct) m.chunks = 1;
    const int64_t begin = static_cast<int64_t>(m.moved) * Board::kChunk;
    const int64_t bytes = direct ? m.bytes() : std::min(Board::kChunk, m.bytes() - begin);
    const std::byte* from =
        direct ? base_ + parcel.where : board_.mail_slot(m.call.peer, rank_, index);
    if (bytes > 0)
      std::memcpy(static_cast<std::byte*>(m.call.output.mut().data) + begin, from,
                  static_cast<size_t>(bytes));
    channel.received.store(index + 1);
    ++m.moved;
    rang_ = false;
  }
  return true;
}

}  // namespace pinion::dist
