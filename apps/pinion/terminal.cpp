// SPDX-License-Identifier: Apache-2.0
// Reads keys one by one for menus; lines are edited by the terminal itself.
#include "pinion/apps/pinion/terminal.h"

#include <fmt/format.h>
#include <termios.h>
#include <unistd.h>

#include <cerrno>

#include "pinion/apps/common/program.h"
#include "pinion/kernels/check.h"
#include "pinion/runtime/log.h"

namespace pinion::apps {

namespace {

constexpr size_t kMostLine = 4096;  // bytes

[[noreturn]] void stop() {
  fail(ErrorKind::usage, {"expected an answer, got the end of the input; nothing was written"});
}

// The next byte; -1 at the end of the input.
int read_byte() {
  unsigned char byte = 0;
  for (;;) {
    const ssize_t n = ::read(STDIN_FILENO, &byte, 1);
    if (n == 1) return byte;
    if (n == 0 || errno != EINTR) return -1;
  }
}

// Keys arrive at once and unseen while it lives.
class KeyMode {
 public:
  KeyMode() {
    active_ = tcgetattr(STDIN_FILENO, &before_) == 0;
    if (!active_) return;
    termios keys = before_;
    keys.c_lflag &= ~static_cast<tcflag_t>(ICANON | ECHO | ISIG);
    keys.c_cc[VMIN] = 1;
    keys.c_cc[VTIME] = 0;
    tcsetattr(STDIN_FILENO, TCSADRAIN, &keys);
  }
  ~KeyMode() {
    if (active_) tcsetattr(STDIN_FILENO, TCSADRAIN, &before_);
  }
  KeyMode(const KeyMode&) = delete;
  KeyMode& operator=(const KeyMode&) = delete;

 private:
  termios before_{};
  bool active_ = false;
};

enum class Key : uint8_t { up, down, enter, digit, other };

// `digit` receives the digit's value.
Key read_key(size_t& digit) {
  constexpr int kEscape = 27, kInterrupt = 3, kEnd = 4;
  const int byte = read_byte();
  if (byte < 0 || byte == kInterrupt || byte == kEnd) stop();
  if (byte == '\n' || byte == '\r') return Key::enter;
  if (byte == 'k') return Key::up;
  if (byte == 'j') return Key::down;
  if (byte >= '0' && byte <= '9') {
    digit = static_cast<size_t>(byte - '0');
    return Key::digit;
  }
  if (byte != kEscape || read_byte() != '[') return Key::other;
  const int arrow = read_byte();
  return arrow == 'A' ? Key::up : arrow == 'B' ? Key::down : Key::other;
}

void show(const std::vector<std::string>& choices, size_t chosen) {
  std::string text;
  for (size_t i = 0; i < choices.size(); ++i)
    text += fmt::format("\r\x1b[K{} {} {}\n", i == chosen ? ">" : " ", i, choices[i]);
  print(text);
}

}  // namespace

bool on_terminal() { return isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1; }

size_t ask_menu(std::string_view question, const std::vector<std::string>& choices,
                size_t standard) {
  print(fmt::format("{} (arrows or digits, then Enter)\n", question));
  const KeyMode mode;
  size_t chosen = standard;
  for (show(choices, chosen);;) {
    size_t digit = 0;
    switch (read_key(digit)) {
      case Key::up: chosen = (chosen + choices.size() - 1) % choices.size(); break;
      case Key::down: chosen = (chosen + 1) % choices.size(); break;
      case Key::digit: chosen = digit < choices.size() ? digit : chosen; break;
      case Key::enter: return chosen;
      case Key::other: continue;
    }
    print(fmt::format("\x1b[{}A", choices.size()));
    show(choices, chosen);
  }
}

std::string ask_text(std::string_view question, std::string_view standard,
                     const std::function<std::string(const std::string&)>& check) {
  for (;;) {
    print(fmt::format("{} [{}]: ", question, standard));
    std::string line;
    for (int byte = read_byte(); byte != '\n'; byte = read_byte()) {
      if (byte < 0) stop();
      if (line.size() < kMostLine) line += static_cast<char>(byte);
    }
    if (line.empty()) line = standard;
    const std::string wrong = check(line);
    if (wrong.empty()) return line;
    print(escaped(wrong) + "\n");
  }
}

bool ask_yes_no(std::string_view question, bool standard) {
  const auto is = [](const std::string& line, std::string_view word) {
    std::string lower = line;
    for (char& c : lower) c = static_cast<char>(c >= 'A' && c <= 'Z' ? c + 32 : c);
    return lower == word || lower == word.substr(0, 1);
  };
  const std::string line = ask_text(question, standard ? "YES" : "NO", [&](const std::string& l) {
    return is(l, "yes") || is(l, "no") ? "" : "expected yes or no, got " + quoted(l, 40);
  });
  return is(line, "yes");
}

}  // namespace pinion::apps
