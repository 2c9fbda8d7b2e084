// SPDX-License-Identifier: Apache-2.0
// What every program does the same way: errors become one line on standard error and the documented
// exit code; flags may be spelt with - or _; what was printed has arrived before success is
// claimed.
#pragma once

#include <functional>
#include <string_view>

namespace CLI {
class App;
}

namespace pinion::apps {

// Runs `body` and returns the exit code of the process: what body returns, or that of the error it
// threw (docs/design.md, "Exit codes"), after a line "simple_train: table.csv:3:7: …" on stderr.
// Under a launcher, which names a file in PINION_ERROR_FILE, the error is also recorded there, and
// so is a signal that kills the program (accel/crash_record.h).
int run_program(std::string_view name, const std::function<int()>& body) noexcept;

// Parses the command line by `app`. True to go on; false when only help was asked for and printed.
// Throws Error (usage) that says what is wrong.
bool parse_command_line(CLI::App& app, int argc, char** argv);

// Writes text at once. To standard output it arrives or throws Error (io).
void print(std::string_view text);
void print_error(std::string_view text) noexcept;

}  // namespace pinion::apps
