// SPDX-License-Identifier: Apache-2.0
// Processes of a launch: started without a shell, gone when the launcher is gone.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "pinion/accel/launch/options.h"

namespace pinion::accel {

// Owns a file descriptor.
class Fd {
 public:
  explicit Fd(int fd = -1) : fd_(fd) {}
  Fd(Fd&& other) noexcept : fd_(other.release()) {}
  Fd& operator=(Fd&& other) noexcept;
  ~Fd() { reset(); }

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }
  int release();
  void reset();

 private:
  int fd_;
};

// Both ends of a new pipe, closed on exec.
struct Pipe {
  Pipe();
  Fd read, write;
};

struct SpawnRequest {
  std::string program;
  std::vector<std::string> argv;
  Variables environment;
  int in = -1, out = -1, err = -1;  // descriptors of this process; -1: the same as ours
  std::vector<int> keep;            // descriptors that the program finds under the same number
  std::vector<int> cpus;            // to run on; empty: all
};

struct Process {
  pid_t pid = 0;
  Fd pidfd;       // readable once the process has ended, in the order in which processes end
  Fd exec_error;  // readable once the program runs, or could not be executed
};

// Starts the program in a process group of its own, to be killed when the thread that called
// spawn() ends. All signals have their default meaning in it, but those that we ignore. Throws
// Error (io).
Process spawn(const SpawnRequest& request);
// Waits until the program runs. Throws Error (usage) with what the system said when it does not.
void expect_running(Process& process, const std::string& program);

// A process that outlives the launcher for a moment: if the launcher ends without finish(), however
// that came, the warden kills the process groups that it knows, and removes the launcher's folder.
class Warden {
 public:
  // Forks: call it before threads are started.
  explicit Warden(const std::string& folder);
  ~Warden() { finish(); }
  Warden(const Warden&) = delete;
  Warden& operator=(const Warden&) = delete;

  void watch(pid_t group);
  void forget(pid_t group);
  void finish() noexcept;  // there is nothing left to kill
  pid_t pid() const { return pid_; }

 private:
  void tell(int32_t message);
  pid_t pid_ = 0;
  Fd pipe_;
};

// Kills what is left of all children but `except`, and of theirs, and waits for them: with
// PR_SET_CHILD_SUBREAPER orphans of our ranks are our children.
void kill_children(pid_t except);

// The folder and the files in it; nothing when it is not there.
void remove_folder(const std::string& folder) noexcept;

}  // namespace pinion::accel
