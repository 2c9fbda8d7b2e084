// SPDX-License-Identifier: Apache-2.0
// main() of the tests. --test_file=ops_test.cpp runs the tests that stand in that file, so that one
// program serves an entry per file, and fails when there are none: an entry that runs nothing is a
// mistake.
#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <string_view>

namespace {

bool ends_with_file(std::string_view path, std::string_view file) {
  return path.ends_with(file) &&
         (path.size() == file.size() || path[path.size() - file.size() - 1] == '/');
}

// A gtest filter of all tests of `file`; empty when there are none.
std::string filter_of(std::string_view file) {
  std::string filter;
  const testing::UnitTest& all = *testing::UnitTest::GetInstance();
  for (int s = 0; s < all.total_test_suite_count(); ++s) {
    const testing::TestSuite& suite = *all.GetTestSuite(s);
    for (int t = 0; t < suite.total_test_count(); ++t) {
      const testing::TestInfo& test = *suite.GetTestInfo(t);
      if (ends_with_file(test.file(), file))
        filter += std::string(test.test_suite_name()) + "." + test.name() + ":";
    }
  }
  return filter;
}

}  // namespace

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  constexpr std::string_view kFlag = "--test_file=";
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (!argument.starts_with(kFlag)) continue;
    const std::string filter = filter_of(argument.substr(kFlag.size()));
    if (filter.empty()) {
      std::fprintf(stderr, "no test stands in %s\n", argv[i] + kFlag.size());
      return 1;
    }
    // A test that starts this program again to see it end names itself in the filter.
    if (testing::GTEST_FLAG(filter) == "*") testing::GTEST_FLAG(filter) = filter;
  }
  return RUN_ALL_TESTS();
}
