// SPDX-License-Identifier: Apache-2.0
// TensorBoardTracker: event files that TensorBoard reads, written without protobuf. A record is
// built in memory and written in one call, so that a reader never meets half of one.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "pinion/accel/track/tracker.h"

namespace pinion::accel {

class TensorBoardTracker final : public Tracker {
 public:
  // A new file in the run's directory, which is made when it is not there. A file of an earlier
  // process is never appended to: TensorBoard reads all files of a directory as one run.
  explicit TensorBoardTracker(const std::string& directory);

  void scalar(std::string_view tag, double value, int64_t step);
  void text(std::string_view tag, std::string_view text, int64_t step);  // Markdown
  // An image as the bytes of a PNG file, of `channels` 1 (gray), 3 (RGB) or 4 (RGBA).
  void image(std::string_view tag, std::string_view png, int width, int height, int channels,
             int64_t step);

  // The numbers of a record as scalars and its texts as texts. The field "step" gives the step; in
  // a record without one the field "epoch" does, and else the records are counted. All go into one
  // event, in one write.
  using Tracker::log;
  void log(std::span<const Field> record) override;

  // A position is the last step logged, plus one. Going back makes TensorBoard drop what earlier
  // files say of that step and later ones.
  int64_t position() override;
  void go_back(int64_t position) override;
  const std::string& path() const { return file_.path(); }

 private:
  void summary(const std::string& values, int64_t step);
  void record(const std::string& event);

  File file_;
  int64_t next_step_ = 0;
};

}  // namespace pinion::accel
