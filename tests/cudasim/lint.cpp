// SPDX-License-Identifier: Apache-2.0
// Memory traffic by source line. The k-th access of each lane at one place of the program makes one
// request of its warp: of device memory it costs the 32-byte sectors that it touches, of shared
// memory as many passes as words lie in one of the 32 banks of 4 bytes. Requests of 8 bytes a lane
// are served by half warps, of 16 bytes by quarter warps.
#include "lint.h"

#include <dlfcn.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <set>
#include <unordered_map>

namespace cudasim {
namespace {

constexpr uint64_t kSector = 32, kBankBytes = 4, kBanks = 32;

struct Request {
  uint32_t mask = 0;
  size_t bytes = 0;
  bool shared = false, writes = false;
  std::array<uint64_t, kWarpLanes> address{};
};
struct Cost {
  uint64_t units = 0, least = 0;
};

Cost cost_in_device_memory(const Request& r) {
  std::set<uint64_t> sectors, addresses;
  for_lanes(r.mask, [&](int l) {
    const uint64_t first = r.address[static_cast<size_t>(l)];
    addresses.insert(first);
    for (uint64_t s = first / kSector; s <= (first + r.bytes - 1) / kSector; ++s) sectors.insert(s);
  });
  return {sectors.size(), (addresses.size() * r.bytes + kSector - 1) / kSector};
}

Cost cost_in_shared_memory(const Request& r) {
  const int together = r.bytes >= 16 ? 8 : r.bytes >= 8 ? 16 : kWarpLanes;
  Cost cost;
  for (int first = 0; first < kWarpLanes; first += together) {
    std::set<uint64_t> words;
    std::array<uint64_t, kBanks> in_bank{};
    const auto lanes = static_cast<uint32_t>(((uint64_t{1} << together) - 1) << first) & r.mask;
    for_lanes(lanes, [&](int l) {
      const uint64_t at = r.address[static_cast<size_t>(l)];
      for (uint64_t w = at / kBankBytes; w <= (at + r.bytes - 1) / kBankBytes; ++w)
        if (words.insert(w).second) ++in_bank[w % kBanks];
    });
    cost.units += *std::max_element(in_bank.begin(), in_bank.end());
    cost.least += (words.size() + kBanks - 1) / kBanks;
  }
  return cost;
}

// A warp of a block at a place, and how often it has been there.
struct RequestKey {
  Place place;
  const Warp* warp;
  uint64_t turn;
  bool operator==(const RequestKey&) const = default;
};
struct LaneKey {
  Place place;
  const Thread* thread;
  bool operator==(const LaneKey&) const = default;
};
size_t mixed(const Place& place, const void* who, uint64_t turn) {
  constexpr uint64_t kSpread = 0x9e3779b97f4a7c15u;
  uint64_t h = reinterpret_cast<uintptr_t>(place.pc) ^ reinterpret_cast<uintptr_t>(place.text);
  h = (h * kSpread) ^ reinterpret_cast<uintptr_t>(who);
  return (h * kSpread ^ turn) * kSpread >> 16;
}
struct Hash {
  size_t operator()(const RequestKey& k) const { return mixed(k.place, k.warp, k.turn); }
  size_t operator()(const LaneKey& k) const { return mixed(k.place, k.thread, 0); }
};

struct Traffic {
  std::unordered_map<LaneKey, uint64_t, Hash> turns;
  std::unordered_map<RequestKey, Request, Hash> requests;
  // By place, space and direction, and size.
  std::map<std::pair<Place, std::pair<int, size_t>>, std::pair<uint64_t, Cost>> total;
};
Traffic traffic;

bool is_helper(const std::string& file) {
  for (const char* helper : {"device.cuh:", "hopper.cuh:", "cuda_runtime.h:", "float_types.h:"})
    if (file.starts_with(helper)) return true;
  return false;
}

}  // namespace

std::map<const void*, std::string> lines_of(const std::vector<const void*>& pcs) {
  std::map<const void*, std::string> found;
  char program[512] = {}, address[32];
  if (readlink("/proc/self/exe", program, sizeof program - 1) < 0) return found;
  std::string command = "addr2line -aie '" + std::string(program) + "'";
  std::vector<const void*> asked;
  for (const void* pc : pcs) {
    Dl_info info{};
    if (!dladdr(pc, &info)) continue;
    const auto offset = static_cast<const char*>(pc) - static_cast<const char*>(info.dli_fbase);
    std::snprintf(address, sizeof address, " 0x%zx", static_cast<size_t>(offset - 1));
    command += address;
    asked.push_back(pc);
  }
  FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return found;
  char line[1024];
  size_t at = 0;
  bool settled = false;
  while (std::fgets(line, sizeof line, pipe)) {
    if (std::strncmp(line, "0x", 2) == 0) {  // the address, before its lines
      ++at;
      settled = false;
      continue;
    }
    if (at == 0 || at > asked.size() || settled) continue;
    line[std::strcspn(line, " \n")] = 0;
    const char* slash = std::strrchr(line, '/');
    const std::string text = slash ? slash + 1 : line;
    std::string& kept = found[asked[at - 1]];
    settled = !is_helper(text);
    if (kept.empty() || settled) kept = text;
  }
  pclose(pipe);
  return found;
}

void count_traffic(const LaneAccess& a) {
  const uint64_t turn = traffic.turns[{a.place, a.thread}]++;
  Request& r = traffic.requests[{a.place, a.thread->warp, turn}];
  r.mask |= 1u << a.thread->lane;
  r.address[static_cast<size_t>(a.thread->lane)] = a.address;
  r.bytes = a.bytes;
  r.shared = a.shared;
  r.writes = a.writes;
}

void count_traffic_of_blocks() {
  for (const auto& [key, r] : traffic.requests) {
    auto& [count, cost] = traffic.total[{key.place, {r.shared * 2 + r.writes, r.bytes}}];
    const Cost one = r.shared ? cost_in_shared_memory(r) : cost_in_device_memory(r);
    ++count;
    cost.units += one.units;
    cost.least += one.least;
  }
  traffic.requests.clear();
  traffic.turns.clear();
}

TrafficMeter::TrafficMeter() {
  traffic = {};
  traffic_is_counted = true;
}
TrafficMeter::~TrafficMeter() { traffic_is_counted = false; }

std::vector<LineTraffic> TrafficMeter::lines() const {
  std::vector<const void*> pcs;
  for (const auto& [key, count] : traffic.total)
    if (!key.first.text) pcs.push_back(key.first.pc);
  std::map<const void*, std::string> names = lines_of(pcs);
  std::map<std::pair<std::string, std::pair<int, size_t>>, LineTraffic> by_line;
  for (const auto& [key, count] : traffic.total) {
    const std::string& line = key.first.text ? *key.first.text : names[key.first.pc];
    const auto [kind, bytes] = key.second;
    LineTraffic& t = by_line[{line, key.second}];
    t.line = line;
    t.shared = kind / 2 != 0;
    t.writes = kind % 2 != 0;
    t.bytes = bytes;
    t.requests += count.first;
    t.units += count.second.units;
    t.least += count.second.least;
  }
  std::vector<LineTraffic> all;
  for (const auto& [key, t] : by_line) all.push_back(t);
  return all;
}

}  // namespace cudasim
