// SPDX-License-Identifier: Apache-2.0
// What tests of the launcher as a process need: to start it, to read what it said, and to see that
// nothing is left of its ranks.
#pragma once

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <sstream>
#include <string>
#include <vector>

#include "pinion/tests/support/fs_testing.h"
#include "pinion/tests/support/paths.h"

namespace pinion {

class LauncherTest : public testing::Test {
 protected:
  struct Result {
    int code = -1;  // 128 + n for signal n
    std::string out, err;
  };

  LauncherTest() { prctl(PR_SET_CHILD_SUBREAPER, 1); }  // orphans come to us, to be counted

  // pinion launch [flags…] PROGRAM [arguments…]; the descriptors of its output are files.
  pid_t start(std::vector<std::string> flags, const std::vector<std::string>& arguments,
              const std::string& name = "run", std::vector<std::string> variables = {}) const {
    flags.insert(flags.begin(), {in_build("pinion"), "launch"});
    flags.push_back(program_);
    flags.insert(flags.end(), arguments.begin(), arguments.end());
    variables.push_back("PATH=/usr/bin:/bin");
    variables.push_back("HOME=" + dir_.path());
    variables.push_back("TMPDIR=" + dir_.path());
    const auto pointers = [](std::vector<std::string>& strings) {
      std::vector<char*> out;
      for (std::string& s : strings) out.push_back(s.data());
      out.push_back(nullptr);
      return out;
    };
    const std::vector<char*> argv = pointers(flags), env = pointers(variables);
    const std::string out = dir_ / (name + ".out"), err = dir_ / (name + ".err");
    const std::string in = dir_ / "stdin";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, in.c_str(), O_RDONLY | O_CREAT, 0600);
    posix_spawn_file_actions_addopen(&actions, 1, out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    posix_spawn_file_actions_addopen(&actions, 2, err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    pid_t child = 0;
    EXPECT_EQ(posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), env.data()), 0);
    posix_spawn_file_actions_destroy(&actions);
    return child;
  }
  Result finish(pid_t child, const std::string& name = "run") const {
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status),
            read_file(dir_ / (name + ".out"), 1 << 24), read_file(dir_ / (name + ".err"), 1 << 24)};
  }
  Result run(const std::vector<std::string>& flags, const std::vector<std::string>& arguments,
             std::vector<std::string> variables = {}) const {
    return finish(start(flags, arguments, "run", std::move(variables)));
  }

  // Of `ranks` ranks in mode wait or stubborn, once they are ready: theirs and their children's.
  std::vector<pid_t> pids(int ranks) const {
    std::vector<pid_t> all;
    for (int r = 0; r < ranks; ++r) {
      const std::string path = dir_ / ("pids_" + std::to_string(r));
      while (!exists(path)) usleep(1000);
      const std::string text = read_file(path, 100);
      all.push_back(std::stoi(text));
      all.push_back(std::stoi(text.substr(text.find(' '))));
    }
    return all;
  }
  // Whether the process is gone within ten seconds: nobody's time is measured, only patience.
  static bool gone(pid_t pid) {
    for (int i = 0; i < 10'000; ++i) {
      while (waitpid(-1, nullptr, WNOHANG) > 0) {
      }
      if (kill(pid, 0) != 0) return true;
      usleep(1000);
    }
    return false;
  }
  static std::string sorted_lines(const std::string& text) {
    std::vector<std::string> lines;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find('\n', at), text.size());
      lines.push_back(text.substr(at, end - at) + "\n");
      at = end + 1;
    }
    std::sort(lines.begin(), lines.end());
    std::string out;
    for (const std::string& line : lines) out += line;
    return out;
  }
  bool folder_is_clean() const {
    for (const std::string& name : list_dir(dir_.path()))
      if (name.starts_with("pinion-launch-")) return false;
    return true;
  }

  // The process of a rank of this launcher; 0 when the launcher has ended before there is one.
  static pid_t rank_pid(pid_t launcher, int rank) {
    const std::string of =
        "/proc/" + std::to_string(launcher) + "/task/" + std::to_string(launcher);
    const std::string mark = std::string("\0PINION_RANK=", 13) + std::to_string(rank) + '\0';
    siginfo_t info{};
    while (waitid(P_PID, static_cast<id_t>(launcher), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
           info.si_pid == 0) {
      std::istringstream children(contents(of + "/children"));
      for (int pid = 0; children >> pid;)
        if (contents("/proc/" + std::to_string(pid) + "/environ").find(mark) != std::string::npos)
          return pid;
    }
    return 0;
  }
  // Of a file that may be gone before it has been read.
  static std::string contents(const std::string& path) {
    try {
      return read_file(path, 1 << 20);
    } catch (const Error&) {
      return "";
    }
  }
  std::string text(const std::string& name) const { return contents(dir_ / name); }
  // Whether all our children, and orphans of theirs, end within ten seconds.
  static bool nobody_is_left() {
    for (int i = 0; i < 10'000; ++i) {
      pid_t ended;
      while ((ended = waitpid(-1, nullptr, WNOHANG)) > 0) {
      }
      if (ended < 0) return true;
      usleep(1000);
    }
    return false;
  }

  std::string program_ = in_build("launch_probe");
  TempDir dir_;
};

inline const std::vector<std::string> kTwo = {"--num_processes", "2"};

}  // namespace pinion
