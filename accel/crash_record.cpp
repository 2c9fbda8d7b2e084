// SPDX-License-Identifier: Apache-2.0
// A handler for signals that end the process. All it uses was made ready when it was installed:
// memory, a stack, and the library that unwinds.
#include "pinion/accel/crash_record.h"

#include <execinfo.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>

namespace pinion::accel {

namespace {

struct FatalSignal {
  int number;
  std::string_view name;
};
constexpr FatalSignal kSignals[] = {{SIGSEGV, "SIGSEGV"}, {SIGBUS, "SIGBUS"},
                                    {SIGFPE, "SIGFPE"},   {SIGILL, "SIGILL"},
                                    {SIGABRT, "SIGABRT"}, {SIGQUIT, "SIGQUIT"}};
constexpr int kFrames = 64;
constexpr int kOwnFrames = 2;  // the handler's, and the one through which the system called it

// Text in memory that is there already; what does not fit is left out.
template <size_t N>
class Buffer {
 public:
  void clear() { size_ = 0; }
  void add(std::string_view text) {
    text = text.substr(0, N - size_);
    std::memcpy(data_ + size_, text.data(), text.size());
    size_ += text.size();
  }
  template <class Integer>
  void add_number(Integer number, int base = 10) {
    char digits[32];
    const char* end = std::to_chars(digits, digits + sizeof digits, number, base).ptr;
    add({digits, static_cast<size_t>(end - digits)});
  }
  // Inside the quotes of a JSON string; bytes that have no business in a path become '?'.
  void add_quoted(std::string_view text) {
    for (const char c : text) {
      const bool plain = c >= ' ' && c <= '~' && c != '"' && c != '\\';
      add(plain ? std::string_view(&c, 1) : "?");
    }
  }
  std::string_view view() const { return {data_, size_}; }
  void write_to(int fd) const {
    for (std::string_view rest = view(); !rest.empty();) {
      const ssize_t n = write(fd, rest.data(), rest.size());
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return;
      rest.remove_prefix(static_cast<size_t>(n));
    }
  }
  void read_from(int fd) {
    const ssize_t n = pread(fd, data_, N, 0);
    size_ = n > 0 ? static_cast<size_t>(n) : 0;
  }

 private:
  char data_[N];
  size_t size_ = 0;
};

// What the handler finds ready.
char path[4096];
char host[256];
int rank;
pid_t process;  // a child of it that dies is no news
alignas(16) std::array<char, 65536> handler_stack;
Buffer<1024> line;
Buffer<16384> trace;
Buffer<24576> record;

int64_t nanoseconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

// One line a frame, as the C library writes them: "program(function+0x1f)[0x55…]". It does so
// without allocating, but only into a file.
void take_trace() {
  static void* frames[kFrames];
  const int count = backtrace(frames, kFrames), own = std::min(count, kOwnFrames);
  const int file = memfd_create("pinion-trace", MFD_CLOEXEC);
  if (file < 0) return;
  backtrace_symbols_fd(frames + own, count - own, file);
  trace.read_from(file);
  close(file);
}

// "at address 0x10 in program(+0x12a0)", "sent by process 77 while in …".
void say_what(const siginfo_t& info) {
  if (info.si_code > 0) {
    line.add("at address 0x");
    line.add_number(reinterpret_cast<uintptr_t>(info.si_addr), 16);
  } else if (info.si_pid != process) {
    line.add("sent by process ");
    line.add_number(info.si_pid);
  } else {
    line.add("raised by itself");
  }
  std::string_view top = trace.view().substr(0, trace.view().find('['));
  top.remove_prefix(std::min(top.rfind('/') + 1, top.size()));
  if (top.empty()) return;
  line.add(" in ");
  line.add(top);
}

void compose(int signal) {
  record.clear();
  const auto number = [&](std::string_view name, int64_t value) {
    record.add(name);
    record.add_number(value);
  };
  number(R"({"schema":1,"t_mono_ns":)", nanoseconds(CLOCK_MONOTONIC));
  number(R"(,"t_wall_ns":)", nanoseconds(CLOCK_REALTIME));
  record.add(R"(,"host":")");
  record.add_quoted(host);
  number(R"(","pid":)", process);
  number(R"(,"rank":)", rank);
  number(R"(,"code":)", 128 + signal);
  record.add(R"(,"class":"signal","message":")");
  record.add_quoted(line.view());
  record.add(R"(","backtrace":[)");
  for (std::string_view rest = trace.view(); !rest.empty();) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    record.add(rest.size() == trace.view().size() ? "\"" : ",\"");
    record.add_quoted(rest.substr(0, end));
    record.add("\"");
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  record.add("]}\n");
}

void record_crash(int signal, const siginfo_t& info) {
  take_trace();
  line.clear();
  say_what(info);
  compose(signal);
  if (const int file = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600); file >= 0) {
    record.write_to(file);
    close(file);
  }
  std::string_view name = "signal";
  for (const FatalSignal& fatal : kSignals)
    if (fatal.number == signal) name = fatal.name;
  record.clear();
  record.add(name);
  record.add(" ");
  record.add(line.view());
  record.add(":\n");
  record.add(trace.view());
  record.write_to(STDERR_FILENO);
}

extern "C" void pinion_record_crash(int signal, siginfo_t* info, void*) {
  if (getpid() == process) record_crash(signal, *info);
  raise(signal);  // whose own meaning is back
}

}  // namespace

void record_crashes() {
  const char* file = std::getenv("PINION_ERROR_FILE");
  const size_t length = file ? std::strlen(file) : 0;
  if (length == 0 || length >= sizeof path || process != 0) return;
  std::memcpy(path, file, length + 1);
  gethostname(host, sizeof host - 1);
  const char* said = std::getenv("PINION_RANK");
  rank = said ? std::atoi(said) : 0;
  process = getpid();
  void* frame;
  backtrace(&frame, 1);  // loads what it needs

  stack_t stack{};
  if (sigaltstack(nullptr, &stack) == 0 && (stack.ss_flags & SS_DISABLE) != 0) {
    stack = {.ss_sp = handler_stack.data(), .ss_flags = 0, .ss_size = handler_stack.size()};
    sigaltstack(&stack, nullptr);
  }
  for (const FatalSignal& fatal : kSignals) {
    struct sigaction action {};
    if (sigaction(fatal.number, nullptr, &action) != 0 || action.sa_handler != SIG_DFL) continue;
    action = {};
    action.sa_sigaction = pinion_record_crash;
    sigfillset(&action.sa_mask);  // nothing comes between but another crash
    for (const FatalSignal& other : kSignals) sigdelset(&action.sa_mask, other.number);
    action.sa_flags = static_cast<int>(SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESETHAND);
    sigaction(fatal.number, &action, nullptr);
  }
}

}  // namespace pinion::accel
