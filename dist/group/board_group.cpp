// SPDX-License-Identifier: Apache-2.0
// Starting calls, waiting for them, and finding out why they do not end.
#include "pinion/dist/group/board_group.h"

#include <sched.h>

#include <algorithm>

#include "pinion/dist/group/board_pending.h"
#include "pinion/kernels/check.h"

namespace pinion::dist {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

namespace {

// How long a rank sleeps before it looks whether the others still live.
constexpr milliseconds kNap{2};
// How long it looks at the counters before it sleeps, when there is a core for every rank: long
// enough that ranks find into step again after one has slept, as long as this pays. Where other
// programs run the scheduler often puts two ranks on one core, and the one that looks only keeps
// the other from coming; then it looks long but now and then. Yielding the core does more harm.
constexpr std::chrono::microseconds kSpin{50}, kShortSpin{2};
constexpr uint32_t kPatience = 4, kRetry = 16;

int cores() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

void pause() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}

// Board::Rank::blocked: 0, or how many collectives the rank has begun, and that it waits for others
// in one of them while no message of its own is under way.
constexpr uint64_t in_collective(uint64_t begun) { return begun << 1 | 1; }

constexpr bool is_message(Operation operation) {
  return operation == Operation::send || operation == Operation::receive;
}

}  // namespace

BoardGroup::BoardGroup(int rank, const Board& board, std::byte* base, int64_t extent,
                       std::shared_ptr<const void> owner)
    : ProcessGroup(rank, board.ranks()),
      board_(board),
      owner_(std::move(owner)),
      base_(base),
      extent_(extent),
      spins_(size_ <= cores()),
      next_round_(board.rank(rank).finished.load()) {}

BoardGroup::~BoardGroup() {
  for (const auto& c : collectives_) c->group = nullptr;
  for (const auto& m : messages_) m->group = nullptr;
  board_.rank(rank_).left.store(generation_);
}

void BoardGroup::abort(std::string_view reason) noexcept {
  try {
    board_.abort(ErrorKind::peer_lost, cat({backend(), " group: ", reason}));
  } catch (...) {
    board_.abort(ErrorKind::peer_lost, reason);
  }
}

std::string BoardGroup::recent_calls() const { return board_.rank(rank_).record.text(); }

std::string BoardGroup::lost(int rank) {
  return board_.rank(rank).left.load() >= generation_ ? "has ended its group" : "";
}

int64_t BoardGroup::where(const void* data) const {
  const int64_t offset = reinterpret_cast<intptr_t>(data) - reinterpret_cast<intptr_t>(base_);
  return offset >= 0 && offset < extent_ ? offset : Board::kPrivate;
}

std::vector<std::byte*> BoardGroup::reach(const Tensor& x) {
  const bool here = x.device() == Device{};
  const Tensor places({size_}, DType::i64);
  all_gather(places, Tensor::of<int64_t>({here ? where(x.view().data) : Board::kPrivate}, {1}))
      .wait();
  std::vector<std::byte*> out;
  for (const int64_t at : places.values<int64_t>()) {
    if (at == Board::kPrivate) return {};
    out.push_back(base_ + at);
  }
  return out;
}

Work BoardGroup::start(Call call) {
  if (!broken_ && board_.broken()) break_with(board_.error());
  const bool message = is_message(call.operation);
  if (size_ == 1 && !message) {
    board_.rank(rank_).record.begin(header_of(call));
    if (call.output.defined() && call.output.view().data != call.input.view().data)
      call.output.copy_(call.input.alias(call.output.shape()));
    board_.rank(rank_).record.end(call.sequence);
    return {};
  }
  if (call.output.defined() && call.output.device() != Device{}) return start_on_host(call);
  board_.rank(rank_).record.begin(header_of(call));
  std::shared_ptr<Pending> pending;
  if (message)
    pending = messages_.emplace_back(std::make_shared<Message>(this, std::move(call)));
  else
    pending = collectives_.emplace_back(std::make_shared<Collective>(this, std::move(call)));
  progress();
  return pending->completed ? Work{} : Work(std::move(pending));
}

void BoardGroup::complete(Pending& pending) {
  pending.completed = true;
  board_.rank(rank_).record.end(pending.call.sequence);
  pending.call.input = pending.call.output = {};
}

void BoardGroup::progress() {
  if (broken_) throw Error(*broken_);
  try {
    while (!collectives_.empty() && advance(*collectives_.front())) {
      complete(*collectives_.front());
      collectives_.pop_front();
    }
    for (auto m = messages_.begin(); m != messages_.end();)
      if (advance(**m)) {
        complete(**m);
        m = messages_.erase(m);
      } else {
        ++m;
      }
  } catch (const Error& e) {
    break_with(e);
  }
  if (!rang_) board_.ring(rank_);
  rang_ = true;
}

bool BoardGroup::Pending::done() {
  if (completed || !group) return true;  // wait() says which
  try {
    group->progress();
    if (!completed) group->look_around(*this);
  } catch (const Error&) {
    return true;  // wait() throws it
  }
  return completed || group->board_.broken();
}

// For those who ask again and again: now and then what nap() finds out for those who sleep.
void BoardGroup::look_around(Pending& pending) {
  const auto now = Clock::now();
  if (now < pending.next_look) return;
  if (pending.next_look == Clock::time_point{}) pending.asked_since = now;
  pending.next_look = now + kNap;
  if (now - pending.asked_since >= timeout_) fail_hang(pending);
  check_lives(pending);
}

void BoardGroup::Pending::wait() {
  if (completed) return;
  PINION_REQUIRE(peer_lost, group, describe(header), ": the group ended before it was complete");
  group->wait_for(*this);
}

void BoardGroup::finish() {
  if (broken_) return;  // this rank has been told
  while (!collectives_.empty()) wait_for(*std::shared_ptr<Pending>(collectives_.back()));
  while (!messages_.empty()) wait_for(*std::shared_ptr<Pending>(messages_.back()));
}

void BoardGroup::check_peers() {
  progress();
  if (board_.broken()) break_with(board_.error());
  for (int r = 0; r < size_; ++r) {
    const std::string why = r == rank_ ? "" : lost(r);
    if (why.empty() || board_.rank(r).left.load() >= generation_) continue;  // it ended in order
    break_with(Error(ErrorKind::peer_lost, cat({backend(), " group: rank ", r, " ", why})));
  }
}

void BoardGroup::wait_for(Pending& pending) {
  progress();
  if (pending.completed) return;
  const auto start = Clock::now();
  const bool patient = vain_spins_ < kPatience || vain_spins_ % kRetry == 0;
  while (spins_ && Clock::now() - start < (patient ? kSpin : kShortSpin)) {
    for (int i = 0; i < 16; ++i) pause();
    progress();
    if (!pending.completed) continue;
    vain_spins_ = 0;
    return;
  }
  ++vain_spins_;
  Board::Rank& me = board_.rank(rank_);
  if (messages_.empty()) me.blocked.store(in_collective(me.collectives.load()));
  while (!nap(start + timeout_, pending)) {
  }
  me.blocked.store(0);
}

// Sleeps until something changes; true when `pending` is complete.
bool BoardGroup::nap(Clock::time_point deadline, const Pending& pending) {
  Board::Rank& me = board_.rank(rank_);
  me.sleeping.store(1);
  const uint32_t bell = me.bell.load();
  const auto awake = [&] { return me.sleeping.store(0), pending.completed; };
  try {
    progress();
    if (pending.completed) return awake();
    if (board_.broken()) break_with(board_.error());
    const auto now = Clock::now();
    if (now >= deadline) fail_hang(pending);
    board_.sleep(rank_, bell, std::min<std::chrono::nanoseconds>(kNap, deadline - now));
    if (me.bell.load() == bell) check_lives(pending), check_partner(pending);
  } catch (...) {
    awake();
    me.blocked.store(0);
    throw;
  }
  return awake();
}

// Whether rank r is who `pending` waits for.
bool BoardGroup::late(int r, const Pending& pending) const {
  if (is_message(pending.header.operation)) return r == pending.header.peer;
  const Collective& c = *collectives_.front();
  return c.worked < c.posted ? board_.rank(r).posted.load() <= c.first + c.worked
                             : board_.rank(r).finished.load() <= c.first + c.collected;
}

// Whether those that `pending` waits for are still there.
void BoardGroup::check_lives(const Pending& pending) {
  for (int r = 0; r < size_; ++r) {
    if (r == rank_ || !late(r, pending)) continue;
    const std::string why = lost(r);
    if (why.empty()) continue;
    progress();  // what it did before it went
    if (pending.completed) return;
    if (late(r, pending))
      break_with(Error(ErrorKind::peer_lost,
                       cat({backend(), " group: rank ", r, " ", why, " while ", "rank ", rank_,
                            " waited in ", describe(pending.header)})));
  }
}

// Whether the partner of a message, for which this rank does nothing else, waits in a collective
// that this rank has not begun, and has no message under way.
void BoardGroup::check_partner(const Pending& pending) {
  if (pending.completed || !is_message(pending.header.operation) || !collectives_.empty()) return;
  const int partner = pending.header.peer;
  const auto& other = board_.rank(partner);
  const uint64_t begun = board_.rank(rank_).collectives.load(), blocked = other.blocked.load();
  if (partner == rank_ || !late(partner, pending) || blocked <= in_collective(begun)) return;
  progress();
  if (pending.completed || other.blocked.load() != blocked) return;
  const CallHeader theirs = other.present[(other.collectives.load() - 1) % 2].header;
  try {
    fail_desync(rank_, pending.header, partner, theirs);
  } catch (const Error& e) {
    break_with(e);
  }
}

void BoardGroup::fail_hang(const Pending& pending) {
  std::string missing, last;
  for (int r = 0; r < size_; ++r) {
    if (r != rank_ && late(r, pending)) missing += cat({missing.empty() ? "" : ", ", r});
    const std::string text = board_.rank(r).record.text(1);
    last += cat({"\n  rank ", r, ": ",
                 text.empty() ? "none" : std::string_view(text).substr(0, text.size() - 1)});
  }
  break_with(Error(ErrorKind::hang,
                   cat({backend(), " group: rank ", rank_, " waited ",
                        std::chrono::duration_cast<milliseconds>(timeout_).count(), " ms in ",
                        describe(pending.header), ", its call ", pending.header.sequence,
                        ", for rank ", missing, "; last calls:", last})));
}

// Breaks the group for everyone, and throws what broke it first.
void BoardGroup::break_with(const Error& error) {
  board_.abort(error.kind(), error.what());
  broken_ = board_.broken() ? board_.error() : error;
  throw Error(*broken_);
}

}  // namespace pinion::dist
