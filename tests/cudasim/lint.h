// SPDX-License-Identifier: Apache-2.0
// What race.cpp tells the count of memory traffic (lint.cpp), and what both need to name places.
#pragma once

#include "machine.h"

namespace cudasim {

// Where an access stands: an address in the program, or a text that the watcher keeps.
struct Place {
  const void* pc = nullptr;
  const std::string* text = nullptr;

  auto operator<=>(const Place&) const = default;
};

// "file.cu:12" for each address: the innermost line that is not one of the helpers' headers.
std::map<const void*, std::string> lines_of(const std::vector<const void*>& pcs);

struct LaneAccess {
  Place place;
  const Thread* thread;
  uint64_t address;  // in device memory; in shared memory, from the beginning of the object
  size_t bytes;
  bool shared, writes;
};
inline bool traffic_is_counted = false;
void count_traffic(const LaneAccess& access);
void count_traffic_of_blocks();  // that have ended

}  // namespace cudasim
