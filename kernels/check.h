// SPDX-License-Identifier: Apache-2.0
// The one error type, and the checks that throw it. Text reads "op: what was expected, got value".
// Nothing in the library exits or aborts; programs turn a kind into the documented exit code.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <string_view>

namespace pinion {

enum class DType : uint8_t;
class Shape;

// What went wrong, with the exit code a program ends with (docs/design.md, "Exit codes").
enum class ErrorKind : uint8_t {
  usage = 64,          // a flag or argument of a program
  data = 65,           // corrupt or unusable input data
  missing = 66,        // an input file that is not there
  internal = 70,       // a broken invariant, or wrong use of the library's API
  out_of_memory = 71,  // memory of a device
  device = 72,         // a device, its driver or one of its libraries
  io = 74,             // reading or writing failed: disk full, EIO, no permission
  preempted = 75,      // asked to stop: a checkpoint was saved, safe to start again
  peer_lost = 76,      // another rank, or the way to it, is gone
  permission = 77,     // not permitted to join the run
  config = 78,         // a configuration file or environment variable
  non_finite = 79,     // infinities or NaN where training cannot go on
  checkpoint = 80,     // a checkpoint that does not fit or does not verify
  hang = 81,           // nobody answered in time
  desync = 82,         // ranks do not agree
};

class Error : public std::runtime_error {
 public:
  Error(ErrorKind kind, const std::string& text) : std::runtime_error(text), kind_(kind) {}
  ErrorKind kind() const { return kind_; }
  int exit_code() const { return static_cast<int>(kind_); }

 private:
  ErrorKind kind_;
};

// One piece of a message. Formatting happens out of line, so that a check costs its condition only.
class Part {
 public:
  Part(const char* text) : Part(std::string_view(text)) {}         // NOLINT: implicit on purpose
  Part(const std::string& text) : Part(std::string_view(text)) {}  // NOLINT
  Part(std::string_view text) : tag_(Tag::text), text_(text) {}    // NOLINT
  Part(int v) : Part(static_cast<long long>(v)) {}                 // NOLINT
  Part(long v) : Part(static_cast<long long>(v)) {}                // NOLINT
  Part(long long v) : tag_(Tag::integer), integer_(v) {}           // NOLINT
  Part(unsigned v) : Part(static_cast<unsigned long long>(v)) {}   // NOLINT
  Part(unsigned long v) : Part(static_cast<unsigned long long>(v)) {}  // NOLINT
  Part(unsigned long long v) : tag_(Tag::natural), natural_(v) {}      // NOLINT
  Part(double v) : tag_(Tag::real), real_(v) {}                        // NOLINT
  Part(const Shape& s) : tag_(Tag::shape), shape_(&s) {}               // NOLINT
  Part(DType t) : tag_(Tag::dtype), dtype_(t) {}                       // NOLINT
  void append_to(std::string& out) const;

 private:
  enum class Tag : uint8_t { text, integer, natural, real, shape, dtype } tag_;
  union {
    std::string_view text_;
    long long integer_;
    unsigned long long natural_;
    double real_;
    const Shape* shape_;
    DType dtype_;
  };
};

// cat({"rank ", 3}) == "rank 3".
std::string cat(std::initializer_list<Part> parts);
[[noreturn]] void fail(ErrorKind kind, std::initializer_list<Part> parts);
[[noreturn]] void fail_check(const char* condition, const char* file, int line,
                             std::initializer_list<Part> parts);

}  // namespace pinion

// PINION_CHECK(x.rank() == 2, "linear: x must be [rows, in], got ", x.shape()); kept in every
// build.
#define PINION_CHECK(condition, ...)                                       \
  do {                                                                     \
    if (!(condition)) [[unlikely]]                                         \
      ::pinion::fail_check(#condition, __FILE__, __LINE__, {__VA_ARGS__}); \
  } while (false)

// The same for an error of another kind, whose text speaks to the user and so names no source line.
#define PINION_REQUIRE(kind, condition, ...)                    \
  do {                                                          \
    if (!(condition)) [[unlikely]]                              \
      ::pinion::fail(::pinion::ErrorKind::kind, {__VA_ARGS__}); \
  } while (false)
