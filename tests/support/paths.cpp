// SPDX-License-Identifier: Apache-2.0
// The paths of paths.h, as the build gives them.
#include "paths.h"

namespace pinion {

std::string in_source(const std::string& path) { return PINION_SOURCE_DIR "/" + path; }
std::string in_build(const std::string& path) { return PINION_BINARY_DIR "/" + path; }
std::string fake_library(const std::string& file) { return PINION_FAKE_LIBRARIES "/" + file; }

}  // namespace pinion
