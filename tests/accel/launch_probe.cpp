// SPDX-License-Identifier: Apache-2.0
// A program for tests of the launcher to start: each rank does what the arguments say.
//   env NAME…            prints the variables
//   exit CODE RANK       that rank ends with the code, the others with 0
//   error KIND RANK      that rank ends with an error of the kind, the others with 0
//   cause HOW DIR VICTIM how=signal, code or late: rank VICTIM fails, the others follow at once
//   wait DIR             writes its pid and a child's to DIR and waits for a signal; 75 for SIGTERM
//                        and SIGUSR1, others are written to DIR/signals
//   stubborn DIR         the same, but no signal ends it
//   lines N              prints N lines on both streams
//   save DIR CODE        saves the next checkpoint of DIR and ends with the code
//   read                 prints what comes on standard input
//   hang HOW             how=loop, deaf (to signals, too) or stop: rank 1 stays behind after a
//                        barrier, the others wait for it in an all_reduce, a second at most
//   crash HOW RANK       how=segv, overflow, bus, fpe, ill or abort: that rank does it, the
//                        others wait
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "pinion/accel/checkpoint/checkpoint.h"
#include "pinion/apps/common/program.h"
#include "pinion/dist/world.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace {

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "-";
}

int rank() { return std::atoi(variable("PINION_RANK").c_str()); }

[[noreturn]] void throw_kind(int code, const char* text) {
  pinion::fail(static_cast<pinion::ErrorKind>(code), {text});
}

// The others watch the victim's end, so that they fail after it, but as soon as can be.
void follow(const std::string& how, const std::string& dir, int victim) {
  const std::string path = dir + "/victim";
  while (!pinion::exists(path)) usleep(500);
  const int pid = std::atoi(pinion::read_file(path, 64).c_str());
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
  pollfd ended{fd, POLLIN, 0};
  if (how != "late" && fd >= 0) poll(&ended, 1, -1);
  if (how == "code") std::_Exit(1);
  throw_kind(76, ("lost rank " + std::to_string(victim)).c_str());
}

int cause(const std::string& how, const std::string& dir, int victim) {
  if (rank() != victim) follow(how, dir, victim);
  usleep(20'000);  // until the others are on their way
  pinion::write_file_atomic(dir + "/victim", std::to_string(getpid()));
  usleep(20'000);
  std::fprintf(stderr, "about to fail\n");
  if (how == "signal") raise(SIGKILL);
  if (how == "late") usleep(100'000);
  return 7;
}

volatile sig_atomic_t got = 0;

int wait_for_signal(const std::string& dir, bool stubborn) {
  struct sigaction action {};
  action.sa_handler = [](int signal) { got = signal; };
  for (const int signal : {SIGTERM, SIGUSR1, SIGUSR2, SIGINT, SIGHUP})
    sigaction(signal, &action, nullptr);
  sigset_t all, none;
  sigfillset(&all);
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &all, &none);
  const pid_t child = fork();
  if (child == 0) {  // a worker of the rank, which nobody tells anything
    for (const int signal : {SIGTERM, SIGUSR1, SIGUSR2, SIGINT, SIGHUP}) ::signal(signal, SIG_IGN);
    while (true) pause();
  }
  pinion::write_file_atomic(dir + "/pids_" + std::to_string(rank()),
                            std::to_string(getpid()) + " " + std::to_string(child) + "\n");
  while (true) {
    sigsuspend(&none);
    const int signal = got;
    pinion::File file(dir + "/signals", pinion::OpenMode::append);
    file.write(std::to_string(rank()) + ":" + std::to_string(signal) + "\n");
    if (!stubborn && (signal == SIGTERM || signal == SIGUSR1)) return 75;
  }
}

[[noreturn]] void stay_behind(const std::string& how) {
  if (how == "stop") raise(SIGSTOP);
  if (how == "deaf")
    for (const int signal : {SIGQUIT, SIGTERM}) ::signal(signal, SIG_IGN);
  volatile bool for_ever = true;
  while (for_ever) {
  }
  std::abort();
}

void hang(const std::string& how) {
  const auto group =
      pinion::dist::init_process_group(pinion::dist::world_from_environment(), {},
                                       pinion::dist::Backend::automatic, std::chrono::seconds(1));
  group->barrier().wait();
  if (rank() == 1) stay_behind(how);
  group->all_reduce(pinion::Tensor::zeros({3})).wait();
}

int deeper(volatile char* above) {  // ends with the stack
  volatile char here[4096];
  here[0] = above[0];
  return above == nullptr ? 0 : deeper(here) + here[0];
}

// Faults of the machine, which no sanitizer is to find first.
[[noreturn, gnu::no_sanitize("undefined")]] void crash(const std::string& how) {
  if (how == "overflow") {
    volatile char first = 0;
    deeper(&first);
  } else if (how == "segv") {
    volatile uintptr_t address = 16;
    *reinterpret_cast<volatile int*>(address) = 1;
  } else if (how == "bus") {  // memory behind the end of its file
    const int empty = memfd_create("empty", 0);
    auto* page = static_cast<volatile char*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, empty, 0));
    *page = 1;
  } else if (how == "fpe") {
    volatile int zero = 0, seven = 7;
    std::exit(seven / zero);
  } else if (how == "ill") {
    __builtin_trap();
  }
  std::abort();
}

int run(int argc, char** argv) {
  const auto argument = [&](int i) { return std::string(i < argc ? argv[i] : ""); };
  const std::string mode = argument(1);
  if (mode == "env") {
    std::string text;
    for (int i = 2; i < argc; ++i)
      text += argument(i) + "=" + pinion::escaped(variable(argv[i])) + "\n";
    pinion::apps::print(text);
  }
  if (mode == "exit" && rank() == std::stoi(argument(3))) return std::stoi(argument(2));
  if (mode == "error" && rank() == std::stoi(argument(3)))
    throw_kind(std::stoi(argument(2)), "something is wrong");
  if (mode == "save") {
    pinion::accel::Checkpoints checkpoints({.root = argument(2)});
    const auto steps = pinion::accel::checkpoint_steps(argument(2));
    checkpoints.save(steps.empty() ? 0 : steps[0] + 1);
    return std::stoi(argument(3));
  }
  if (mode == "cause") return cause(argument(2), argument(3), std::stoi(argument(4)));
  if (mode == "wait") return wait_for_signal(argument(2), false);
  if (mode == "stubborn") return wait_for_signal(argument(2), true);
  if (mode == "lines")
    for (int i = 0; i < std::stoi(argument(2)); ++i) {
      std::printf("out %d\n", i);
      std::fprintf(stderr, "err %d\n", i);
    }
  if (mode == "hang") hang(argument(2));
  if (mode == "crash") {
    if (rank() == std::stoi(argument(3))) crash(argument(2));
    while (true) pause();
  }
  if (mode == "read") {
    char text[256];
    while (std::fgets(text, sizeof text, stdin)) std::printf("%s", text);
    std::printf("end");
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return pinion::apps::run_program("launch_probe", [&] { return run(argc, argv); });
}
