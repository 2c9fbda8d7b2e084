// SPDX-License-Identifier: Apache-2.0
// Writes error records.
#include "pinion/accel/error_record.h"

#include <unistd.h>

#include <cstdlib>
#include <ctime>
#include <nlohmann/json.hpp>

#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

int64_t nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

}  // namespace

const char* name_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::usage: return "usage";
    case ErrorKind::data: return "data";
    case ErrorKind::missing: return "missing";
    case ErrorKind::internal: return "internal";
    case ErrorKind::out_of_memory: return "out_of_memory";
    case ErrorKind::device: return "device";
    case ErrorKind::io: return "io";
    case ErrorKind::preempted: return "preempted";
    case ErrorKind::peer_lost: return "peer_lost";
    case ErrorKind::permission: return "permission";
    case ErrorKind::config: return "config";
    case ErrorKind::non_finite: return "non_finite";
    case ErrorKind::checkpoint: return "checkpoint";
    case ErrorKind::hang: return "hang";
    case ErrorKind::desync: return "desync";
  }
  return "unknown";
}

void record_error(ErrorKind kind, std::string_view message) noexcept {
  const char* path = std::getenv("PINION_ERROR_FILE");
  if (!path || !*path) return;
  try {
    char host[256] = "";
    gethostname(host, sizeof host - 1);
    const char* rank = std::getenv("PINION_RANK");
    const nlohmann::ordered_json record = {{"schema", 1},
                                           {"t_mono_ns", nanoseconds(CLOCK_MONOTONIC)},
                                           {"t_wall_ns", nanoseconds(CLOCK_REALTIME)},
                                           {"host", escaped(host)},
                                           {"pid", getpid()},
                                           {"rank", rank ? std::atoi(rank) : 0},
                                           {"code", static_cast<int>(kind)},
                                           {"class", name_of(kind)},
                                           {"message", escaped(message.substr(0, 8192))}};
    write_file_atomic(path, record.dump() + "\n");
  } catch (...) {  // the program is ending with an error already
  }
}

}  // namespace pinion::accel
