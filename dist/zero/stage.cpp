// SPDX-License-Identifier: Apache-2.0
// The names under which configuration files ask for a stage.
#include <algorithm>
#include <cctype>
#include <string>

#include "pinion/dist/zero/zero.h"

namespace pinion::dist {

int stage_of_zero(std::string_view zero_stage) {
  PINION_REQUIRE(config, zero_stage.size() == 1 && zero_stage[0] >= '0' && zero_stage[0] <= '3',
                 "zero_stage: expected 0, 1, 2 or 3, got ", zero_stage);
  return zero_stage[0] - '0';
}

int stage_of_fsdp(std::string_view strategy) {
  struct Strategy {
    const char *name, *number;
    int stage;  // -1: refused
  };
  constexpr Strategy kStrategies[] = {{"FULL_SHARD", "1", 3},         {"SHARD_GRAD_OP", "2", 2},
                                      {"NO_SHARD", "3", 0},           {"TRUE", "TRUE", 3},
                                      {"FALSE", "FALSE", 2},          {"HYBRID_SHARD", "4", -1},
                                      {"HYBRID_SHARD_ZERO2", "5", -1}};
  std::string upper(strategy);
  std::transform(upper.begin(), upper.end(), upper.begin(),
                 [](unsigned char c) { return static_cast<char>(std::toupper(c)); });
  for (const Strategy& s : kStrategies) {
    if (upper != s.name && upper != s.number) continue;
    PINION_REQUIRE(config, s.stage >= 0, "fsdp_sharding_strategy: ", s.name,
                   " shards within each host and repeats the shards on every host, which needs two "
                   "groups of ranks; expected FULL_SHARD, SHARD_GRAD_OP or NO_SHARD");
    return s.stage;
  }
  fail(ErrorKind::config,
       {"fsdp_sharding_strategy: expected FULL_SHARD, SHARD_GRAD_OP or NO_SHARD, got ", strategy});
}

}  // namespace pinion::dist
