// SPDX-License-Identifier: Apache-2.0
// Where the tests find the source tree, the programs and the files that go with them. Only
// paths.cpp is compiled with these paths, so that a compiler cache serves the other tests in every
// checkout.
#pragma once

#include <string>

namespace pinion {

std::string in_source(const std::string& path);  // under the root of the source tree
std::string in_build(const std::string& path);   // under the build folder: the programs, say
std::string fake_library(const std::string& file);

}  // namespace pinion
