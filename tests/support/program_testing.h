// SPDX-License-Identifier: Apache-2.0
// What tests of whole programs need: to start one, to wait for it, and to read what it said.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "fs_testing.h"

extern char** environ;

namespace pinion {

class ProgramTest : public testing::Test {
 protected:
  struct Result {
    int code = -1;  // 128 + n for signal n
    std::string out, err;
  };

  pid_t start(std::vector<std::string> arguments) const {
    std::vector<char*> argv;
    for (std::string& a : arguments) argv.push_back(a.data());
    argv.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    constexpr int kFlags = O_WRONLY | O_CREAT | O_TRUNC;
    posix_spawn_file_actions_addopen(&actions, 1, (dir_ / "stdout").c_str(), kFlags, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, (dir_ / "stderr").c_str(), kFlags, 0600);
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ), 0) << argv[0];
    posix_spawn_file_actions_destroy(&actions);
    return child;
  }

  Result wait(pid_t child) const {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), text("stdout"),
            text("stderr")};
  }

  Result run(const std::vector<std::string>& arguments) const { return wait(start(arguments)); }

  std::string text(const std::string& name) const { return read_file(dir_ / name, 1 << 26); }

  TempDir dir_;
};

}  // namespace pinion
