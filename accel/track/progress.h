// SPDX-License-Identifier: Apache-2.0
// Progress of a loop: a bar on a terminal, and a plain line every few seconds anywhere else.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <type_traits>

namespace pinion::accel {

enum class ProgressMode : uint8_t {
  automatic,  // a bar on a terminal, else lines
  bar,
  lines,
  off,
};

// step() costs a few instructions: the clock is read once every so many steps that about 50
// readings a second result, and the bar is drawn at most ten times a second. A loop of less than a
// tenth of a second shows nothing. The bar fits the width that the terminal has at that moment,
// never scrolls it, and is gone when the loop ends. To write other text, call erase() before and
// retitle() after it.
class Progress {
 public:
  struct Options {
    ProgressMode mode = ProgressMode::automatic;
    int fd = 2;  // where to write; errors of writing are ignored
    double seconds_between_lines = 10;
    int64_t (*clock_ns)() = nullptr;  // a steady clock; null: the system's
  };

  Progress(std::string_view title, int64_t total) : Progress(title, total, Options()) {}
  Progress(std::string_view title, int64_t total, const Options& options);  // total 0: not known
  ~Progress() { finish(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void step() { advance(); }
  void step(double loss) {
    loss_ = loss;
    advance();
  }
  // The same when the loss is not at hand, on a device say: it is asked for when it will be shown.
  template <class F>
  requires std::is_invocable_r_v<double, F>
  void step(F&& loss) {
    if (until_look_ <= 1) loss_ = loss();
    advance();
  }
  void erase();  // takes the bar off the screen
  // Goes on under another title, and puts back the bar that erase() took off.
  void retitle(std::string_view title);
  void finish();  // removes the bar; later steps show nothing

 private:
  void advance() {
    ++done_;
    if (--until_look_ <= 0) look();
  }
  void look();
  void draw(int64_t now);
  void write_line(int64_t now);
  std::string figures(int64_t now, bool with_counts, bool with_rate) const;

  std::string title_;
  int64_t total_;
  Options options_;
  bool bar_ = false;
  bool shown_ = false;   // the bar is on the screen
  bool erased_ = false;  // it was until erase()
  bool utf8_ = false;
  int64_t done_ = 0;
  double loss_;                                      // NaN before the first
  int64_t until_look_ = 1;                           // steps before the next reading of the clock
  int64_t stride_ = 1;                               // steps between readings
  int64_t started_ = 0, looked_ = 0, reported_ = 0;  // ns
};

}  // namespace pinion::accel
