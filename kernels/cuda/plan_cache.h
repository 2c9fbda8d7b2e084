// SPDX-License-Identifier: Apache-2.0
// What was prepared for a shape, kept for the next call with that shape: the last few, so that a
// program whose shapes never repeat does not grow.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>

namespace pinion::kernels::cuda {

// N words that say everything a plan depends on. A plan stays alive while somebody holds it, be it
// dropped from here or not.
template <size_t N, class Plan>
class PlanCache {
 public:
  using Key = std::array<int64_t, N>;

  explicit PlanCache(size_t most) : most_(most) {}

  // The plan of the key, made by make() on the first call. Where make() throws nothing is kept.
  template <class Make>
  std::shared_ptr<Plan> get(const Key& key, Make&& make) {
    const std::lock_guard lock(mutex_);
    if (const auto known = where_.find(key); known != where_.end()) {
      plans_.splice(plans_.begin(), plans_, known->second);
      return plans_.front().second;
    }
    std::shared_ptr<Plan> plan = make();
    plans_.emplace_front(key, plan);
    where_[key] = plans_.begin();
    if (plans_.size() > most_) {
      where_.erase(plans_.back().first);
      plans_.pop_back();
    }
    return plan;
  }
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return plans_.size();
  }

 private:
  struct Hash {
    size_t operator()(const Key& key) const {
      uint64_t h = 0;
      for (const int64_t word : key)  // the multiplier of splitmix64's last round
        h = (h ^ (h >> 29) ^ static_cast<uint64_t>(word)) * 0x94d049bb133111eb;
      return h;
    }
  };
  using Plans = std::list<std::pair<Key, std::shared_ptr<Plan>>>;

  const size_t most_;
  mutable std::mutex mutex_;
  Plans plans_;  // last used first
  std::unordered_map<Key, typename Plans::iterator, Hash> where_;
};

}  // namespace pinion::kernels::cuda
