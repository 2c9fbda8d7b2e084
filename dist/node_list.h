// SPDX-License-Identifier: Apache-2.0
// The two compressed lists that Slurm puts in the environment: hosts, and tasks per host.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace pinion::dist {

// "gpu[1-2,07],login" is gpu1, gpu2, gpu07, login; several brackets in a name multiply. `variable`
// is the name for errors (config): unbalanced brackets, descending ranges, more than 65536 hosts.
std::vector<std::string> expand_node_list(std::string_view list, std::string_view variable);

// "2(x3),1" is 2, 2, 2, 1.
std::vector<int> expand_counts(std::string_view list, std::string_view variable);

}  // namespace pinion::dist
