// SPDX-License-Identifier: Apache-2.0
// Pipes of ranks onto the screen and into files.
#include "pinion/accel/launch/output.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <cerrno>

#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr size_t kLongestLine = 65536;  // a longer one is broken
constexpr size_t kLastLines = 5, kLastLineBytes = 400;

}  // namespace

OutputStream::OutputStream(Fd from, int to, std::string prefix, const std::string& file)
    : from_(std::move(from)), to_(to), prefix_(std::move(prefix)) {
  fcntl(from_.get(), F_SETFL, O_NONBLOCK);
  if (!file.empty()) file_ = std::make_unique<File>(file, OpenMode::append);
}

bool OutputStream::pump() {
  char bytes[16384];
  while (from_) {
    const ssize_t n = read(from_.get(), bytes, sizeof bytes);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return true;
    if (n <= 0) {
      finish();
      return false;
    }
    take({bytes, static_cast<size_t>(n)});
  }
  return false;
}

void OutputStream::finish() {
  if (!pending_.empty()) write_line(pending_ + "\n");
  pending_.clear();
  from_.reset();
}

std::string OutputStream::last_lines() const {
  std::string text;
  for (const std::string& line : last_) text += (text.empty() ? "" : " | ") + escaped(line);
  return text;
}

void OutputStream::take(std::string_view bytes) {
  if (file_) try {
      file_->write(bytes);
    } catch (const Error& e) {  // a full disk under the logs is no reason to stop
      log_warn({e.what(), "; nothing more goes to this file"});
      file_.reset();
    }
  while (!bytes.empty()) {
    const size_t end = bytes.find('\n');
    pending_ += bytes.substr(0, end == bytes.npos ? end : end + 1);
    if (end == bytes.npos && pending_.size() < kLongestLine) return;
    bytes.remove_prefix(end == bytes.npos ? bytes.size() : end + 1);
    if (pending_.back() != '\n') pending_ += '\n';
    write_line(pending_);
    pending_.clear();
  }
}

void OutputStream::write_line(std::string_view line) {
  last_.emplace_back(line.substr(0, std::min(line.size() - 1, kLastLineBytes)));
  if (last_.size() > kLastLines) last_.pop_front();
  std::string text = prefix_;
  text += line;
  for (std::string_view rest = text; !rest.empty() && !to_is_gone_;) {
    const ssize_t n = write(to_, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) {  // somebody who shares it made it so
      pollfd room{to_, POLLOUT, 0};
      poll(&room, 1, -1);
      continue;
    }
    // A reader that is gone (EPIPE) must not end a training run.
    if (n <= 0)
      to_is_gone_ = true;
    else
      rest.remove_prefix(static_cast<size_t>(n));
  }
}

}  // namespace pinion::accel
