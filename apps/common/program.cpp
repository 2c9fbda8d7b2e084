// SPDX-License-Identifier: Apache-2.0
// Exit codes, and the command line by way of CLI11.
#include "pinion/apps/common/program.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <new>
#include <string>

#include "pinion/accel/crash_record.h"
#include "pinion/accel/error_record.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::apps {

namespace {

// A standard stream that whoever started us has closed leaves its number to the first file that is
// opened, which then gets what is printed.
void hold_standard_streams() {
  int fd;
  do fd = open("/dev/null", O_RDWR);
  while (fd >= 0 && fd <= STDERR_FILENO);
  if (fd >= 0) close(fd);
}

// Returns 0 or errno.
int write_all(int fd, std::string_view text) noexcept {
  while (!text.empty()) {
    const ssize_t n = ::write(fd, text.data(), text.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {  // somebody who shares it made it so
      pollfd room{fd, POLLOUT, 0};
      poll(&room, 1, -1);
      continue;
    }
    if (n <= 0) return n < 0 ? errno : EIO;
    text.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

// Control characters escaped, but for the line breaks of lists: what follows those is indented, so
// that no text out of a file passes for a message of ours.
std::string lines_of(std::string_view text) {
  constexpr std::string_view kBreak = "\n  ";
  std::string out;
  for (size_t at; (at = text.find(kBreak)) != std::string_view::npos;) {
    out += escaped(text.substr(0, at)) + std::string(kBreak);
    text.remove_prefix(at + kBreak.size());
  }
  return out + escaped(text);
}

int report(std::string_view name, std::string_view text, ErrorKind kind) noexcept {
  try {
    write_all(STDERR_FILENO, std::string(name) + ": " + lines_of(text) + "\n");
    accel::record_error(kind, text);
  } catch (...) {  // no memory even for the message
    write_all(STDERR_FILENO, "out of memory\n");
  }
  return static_cast<int>(kind);
}

// "--batch-size=32" as "--batch_size=32".
std::string with_underscores(std::string argument) {
  if (argument.size() < 3 || argument.compare(0, 2, "--") != 0) return argument;
  for (size_t i = 2; i < argument.size() && argument[i] != '='; ++i)
    if (argument[i] == '-') argument[i] = '_';
  return argument;
}

}  // namespace

int run_program(std::string_view name, const std::function<int()>& body) noexcept {
  try {
    hold_standard_streams();
    accel::record_crashes();
    return body();
  } catch (const Error& e) {
    return report(name, e.what(), e.kind());
  } catch (const std::bad_alloc&) {
    return report(name, "out of memory", ErrorKind::out_of_memory);
  } catch (const std::exception& e) {
    return report(name, e.what(), ErrorKind::internal);
  } catch (...) {
    return report(name, "unknown error", ErrorKind::internal);
  }
}

bool parse_command_line(CLI::App& app, int argc, char** argv) {
  std::vector<std::string> arguments;  // CLI11 takes them from the last to the first
  for (int i = argc - 1; i > 0; --i) arguments.push_back(with_underscores(argv[i]));
  try {
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    print(app.help());
    return false;
  } catch (const CLI::ParseError& e) {
    fail(ErrorKind::usage, {e.what(), " (--help lists the flags)"});
  }
  return true;
}

void print(std::string_view text) {
  if (const int error = write_all(STDOUT_FILENO, text))
    fail(ErrorKind::io, {"standard output: ", std::strerror(error)});
}

void print_error(std::string_view text) noexcept { write_all(STDERR_FILENO, text); }

}  // namespace pinion::apps
