// SPDX-License-Identifier: Apache-2.0
// fork, exec, and the warden.
#include "pinion/accel/launch/process.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <set>

#include "pinion/kernels/check.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

[[noreturn]] void system_error(const char* call) {
  fail(ErrorKind::io, {call, ": ", std::strerror(errno)});
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> out;
  out.reserve(strings.size() + 1);
  for (std::string& s : strings) out.push_back(s.data());
  out.push_back(nullptr);
  return out;
}

// Everything that the child does between fork and exec, where only system calls are safe: another
// thread may hold any lock. What went wrong is left on `report` as an errno.
struct Child {
  const char* program;
  char** argv;
  char** environment;
  int streams[3];
  const std::vector<int>* keep;
  const cpu_set_t* cpus;
  pid_t parent;
  int report;

  [[noreturn]] void give_up() const {
    const int error = errno;
    const ssize_t ignored = write(report, &error, sizeof error);
    _exit(ignored < 0 ? 126 : 127);
  }

  [[noreturn]] void run() const {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(127);  // it ended before it could be watched
    for (int signal = 1; signal < NSIG; ++signal) {
      struct sigaction now {};
      if (sigaction(signal, nullptr, &now) == 0 && now.sa_handler != SIG_IGN)
        ::signal(signal, SIG_DFL);
    }
    ::signal(SIGPIPE, SIG_DFL);  // the launcher ignores it for itself
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    if (cpus && sched_setaffinity(0, sizeof *cpus, cpus) != 0) give_up();
    for (int i = 0; i < 3; ++i)
      if (streams[i] >= 0 && dup2(streams[i], i) < 0) give_up();
    syscall(SYS_close_range, 3u, ~0u, 4u);  // CLOSE_RANGE_CLOEXEC; ours are marked already
    for (const int fd : *keep)
      if (fcntl(fd, F_SETFD, 0) < 0) give_up();
    execve(program, argv, environment);
    give_up();
  }
};

}  // namespace

Fd& Fd::operator=(Fd&& other) noexcept {
  if (this != &other) reset(), fd_ = other.release();
  return *this;
}

int Fd::release() {
  const int fd = fd_;
  fd_ = -1;
  return fd;
}

void Fd::reset() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

Pipe::Pipe() {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) system_error("pipe");
  read = Fd(ends[0]);
  write = Fd(ends[1]);
}

Process spawn(const SpawnRequest& request) {
  std::vector<std::string> arguments = request.argv, variables;
  for (const auto& [name, value] : request.environment)
    variables.push_back(cat({name, "=", value}));
  const std::vector<char*> argv = pointers(arguments), environment = pointers(variables);
  cpu_set_t cpus;
  CPU_ZERO(&cpus);
  for (const int cpu : request.cpus) CPU_SET(static_cast<size_t>(cpu), &cpus);
  Pipe report;
  const Child child{request.program.c_str(),
                    const_cast<char**>(argv.data()),
                    const_cast<char**>(environment.data()),
                    {request.in, request.out, request.err},
                    &request.keep,
                    request.cpus.empty() ? nullptr : &cpus,
                    getpid(),
                    report.write.get()};
  const pid_t pid = fork();
  if (pid < 0) system_error("fork");
  if (pid == 0) child.run();
  setpgid(pid, pid);  // whoever comes first, it or we: a group is there to be signalled
  Process process;
  process.pid = pid;
  process.pidfd = Fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  process.exec_error = std::move(report.read);
  if (!process.pidfd) {
    kill(pid, SIGKILL);
    system_error("pidfd_open");
  }
  return process;
}

void expect_running(Process& process, const std::string& program) {
  int error = 0;
  ssize_t n;
  do n = read(process.exec_error.get(), &error, sizeof error);
  while (n < 0 && errno == EINTR);
  process.exec_error.reset();
  PINION_REQUIRE(usage, n <= 0, "launch: ", quoted(program),
                 " cannot be executed: ", std::strerror(error));
}

// --- warden --------------------------------------------------------------------------------------

namespace {

[[noreturn]] void run_warden(int pipe, const std::string& folder) {
  setsid();
  prctl(PR_SET_NAME, "pinion-warden");
  for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_IGN);
  dup2(pipe, 3);  // keeps nothing of ours open: who reads our output sees its end with us
  syscall(SYS_close_range, 4u, ~0u, 0u);
  for (int fd = 0; fd < 3; ++fd) close(fd);
  std::set<pid_t> groups;
  int32_t message = 0;
  ssize_t n;
  while ((n = read(3, &message, sizeof message)) != 0) {
    if (n < 0 && errno == EINTR) continue;
    if (n != sizeof message) break;
    if (message == 0) _exit(0);  // finish()
    message > 0 ? void(groups.insert(message)) : void(groups.erase(-message));
  }
  for (const pid_t group : groups) kill(-group, SIGKILL);
  if (!folder.empty()) remove_folder(folder);
  _exit(0);
}

}  // namespace

Warden::Warden(const std::string& folder) {
  Pipe pipe;
  pid_ = fork();
  if (pid_ < 0) system_error("fork");
  if (pid_ == 0) run_warden(pipe.read.get(), folder);
  pipe_ = std::move(pipe.write);
}

void Warden::tell(int32_t message) {
  // Four bytes go into a pipe whole. A warden that is gone is one safety net less, no more.
  ssize_t n;
  do n = write(pipe_.get(), &message, sizeof message);
  while (n < 0 && errno == EINTR);
}

void Warden::watch(pid_t group) { tell(group); }
void Warden::forget(pid_t group) { tell(-group); }

void Warden::finish() noexcept {
  if (!pipe_) return;
  tell(0);
  pipe_.reset();
  int status;
  while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
  }
}

void kill_children(pid_t except) {
  // Those of a child become ours when it dies: again until there are none.
  for (int round = 0; round < 100; ++round) {
    const std::string path = cat({"/proc/self/task/", static_cast<int>(gettid()), "/children"});
    Fd list(open(path.c_str(), O_RDONLY | O_CLOEXEC));
    std::string text(65536, '\0');
    const ssize_t n = list ? read(list.get(), text.data(), text.size()) : 0;
    text.resize(n > 0 ? static_cast<size_t>(n) : 0);
    bool found = false;
    for (size_t at = 0; at < text.size();) {
      const size_t end = std::min(text.find(' ', at), text.size());
      const pid_t pid = static_cast<pid_t>(std::strtol(text.c_str() + at, nullptr, 10));
      at = end + 1;
      if (pid <= 0 || pid == except) continue;
      found = true;
      kill(pid, SIGKILL);
      int status;
      while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
      }
    }
    if (!found) return;
  }
}

void remove_folder(const std::string& folder) noexcept {
  try {
    if (!exists(folder)) return;
    for (const std::string& name : list_dir(folder)) remove_file(cat({folder, "/", name}));
    remove_dir(folder);
  } catch (const std::exception&) {  // a litter of small files at worst
  }
}

}  // namespace pinion::accel
