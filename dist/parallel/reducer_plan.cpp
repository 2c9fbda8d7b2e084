// SPDX-License-Identifier: Apache-2.0
// The plan of a reducer: which parameters make a bucket, and that all ranks agree on it.
#include <algorithm>
#include <numeric>
#include <sstream>

#include "pinion/dist/parallel/digest.h"
#include "pinion/dist/parallel/reducer_state.h"

namespace pinion::dist {
namespace {

// Frozen parameters between two others are sent along up to this size; more begins a new bucket.
constexpr int64_t kLargestGap = 64 << 10;  // bytes

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream in(text);
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// Everyone's text, by rank; nothing when all are equal.
std::vector<std::string> gather_texts(ProcessGroup& group, const std::string& mine, Device device) {
  const auto size = static_cast<size_t>(group.size());
  const auto digest =
      static_cast<int64_t>(digest_of(mine.data(), static_cast<int64_t>(mine.size())));
  const auto length = static_cast<int64_t>(mine.size());
  Tensor marks({2 * group.size()}, DType::i64, device);
  group.all_gather(marks, Tensor::of<int64_t>({digest, length}, {2}).to(device)).wait();
  const std::vector<int64_t> all = marks.values<int64_t>();
  int64_t longest = 0;
  bool equal = true;
  for (size_t r = 0; r < size; ++r) {
    equal &= all[2 * r] == digest && all[2 * r + 1] == length;
    longest = std::max(longest, all[2 * r + 1]);
  }
  if (equal) return {};
  std::vector<uint8_t> bytes(mine.begin(), mine.end());
  bytes.resize(static_cast<size_t>(longest));
  Tensor texts({longest * group.size()}, DType::u8, device);
  group.all_gather(texts, Tensor::of(bytes, {longest}).to(device)).wait();
  bytes = texts.values<uint8_t>();
  std::vector<std::string> out;
  for (size_t r = 0; r < size; ++r) {
    const auto begin = bytes.begin() + static_cast<int64_t>(r) * longest;
    out.emplace_back(begin, begin + all[2 * r + 1]);
  }
  return out;
}

}  // namespace

// From the end of the last arena to the beginning of the first. A bucket ends when it has reached
// its size; parameters are never cut.
void Reducer::make_buckets() {
  for (auto at = arenas_.rbegin(); at != arenas_.rend(); ++at) {
    optim::Arena& arena = **at;
    arena.move_gradients(group_->symmetric(arena.grads().shape(), arena.dtype(), arena.device()));
    const int64_t width = size_of(arena.dtype());
    int64_t begin = 0, end = 0;  // of the open bucket, in elements; none when states_ say so
    bool open = false;
    const auto close = [&] {
      if (!open) return;
      open = false;
      states_.back().end_entry = entries_.size();
      Bucket bucket{buckets_.size(), arena.grads().rows(begin, end), {}};
      for (size_t i = entries_.size(); i-- > states_.back().first_entry;)
        bucket.items.push_back({entries_[i].name, entries_[i].slot});
      buckets_.push_back(std::move(bucket));
    };
    for (size_t i = arena.items().size(); i-- > 0;) {
      const optim::Arena::Item& item = arena.items()[i];
      if (!item.param.requires_grad()) {
        frozen_.push_back({item.name, item.param});
        continue;
      }
      const int64_t item_end =
          i + 1 < arena.items().size() ? arena.items()[i + 1].offset : arena.size();
      const int64_t cap = buckets_.empty() ? options_.first_bucket_bytes : options_.bucket_bytes;
      if (open && ((end - begin) * width >= cap || (begin - item_end) * width > kLargestGap))
        close();
      if (!open) {
        states_.push_back({entries_.size(), entries_.size()});
        end = item_end, open = true;
      }
      begin = item.offset;
      entries_.push_back({item.name, item.param, item.grad, buckets_.size()});
    }
    close();
  }
  PINION_CHECK(!entries_.empty(), "reducer: expected a parameter that requires grad, got none");
  order_.resize(buckets_.size());
  std::iota(order_.begin(), order_.end(), size_t{0});
}

void Reducer::compare_plans() {
  if (group_->size() == 1) return;
  std::string plan = cat({"unused ", static_cast<int>(options_.unused), ", static_graph ",
                          int{options_.static_graph}, ", weighted ", int{options_.weighted},
                          ", verify ", int{verify_}, ", buckets of ", options_.first_bucket_bytes,
                          " and ", options_.bucket_bytes, " bytes\n"});
  for (const optim::Arena* arena : arenas_)
    for (const optim::Arena::Item& item : arena->items())
      plan += cat({item.name, " ", item.param.dtype(), " ", item.param.shape(),
                   item.param.requires_grad() ? "\n" : " frozen\n"});
  const std::vector<std::string> plans = gather_texts(*group_, plan, arenas_[0]->device());
  for (size_t r = 1; r < plans.size(); ++r) {
    if (plans[r] == plans[0]) continue;
    const std::vector<std::string> here = lines_of(plans[0]), there = lines_of(plans[r]);
    size_t at = 0;
    while (at < here.size() && at < there.size() && here[at] == there[at]) ++at;
    const auto line = [&](const std::vector<std::string>& lines) {
      return at < lines.size() ? lines[at] : std::string("no further parameter");
    };
    fail(ErrorKind::desync,
         {"reducer: ranks were given different ", at == 0 ? "options" : "parameters",
          ": rank 0 has ", line(here), ", rank ", static_cast<int>(r), " has ", line(there)});
  }
}

}  // namespace pinion::dist
