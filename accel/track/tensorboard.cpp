// SPDX-License-Identifier: Apache-2.0
// The wire format of protocol buffers, as far as TensorBoard's Event needs it, in the records of
// TFRecord files: length, checksum of the length, data, checksum of the data. Numbers of fields are
// those of tensorboard/compat/proto/{event,summary,tensor}.proto.
#include "pinion/accel/track/tensorboard.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "pinion/runtime/crc32c.h"

namespace pinion::accel {
namespace {

enum Wire : uint32_t { kVarint = 0, kFixed64 = 1, kBytes = 2, kFixed32 = 5 };

// A message under construction.
class Message {
 public:
  Message& integer(uint32_t field, int64_t value) {
    key(field, kVarint);
    varint(static_cast<uint64_t>(value));
    return *this;
  }
  Message& real(uint32_t field, double value) { return key(field, kFixed64).raw(value); }
  Message& real(uint32_t field, float value) { return key(field, kFixed32).raw(value); }
  Message& bytes(uint32_t field, std::string_view value) {
    key(field, kBytes);
    varint(value.size());
    out_ += value;
    return *this;
  }
  Message& message(uint32_t field, const Message& value) { return bytes(field, value.out_); }
  const std::string& str() const { return out_; }

 private:
  Message& key(uint32_t field, Wire wire) {
    varint(field << 3 | wire);
    return *this;
  }
  void varint(uint64_t value) {
    for (; value >= 0x80; value >>= 7) out_ += static_cast<char>(value | 0x80);
    out_ += static_cast<char>(value);
  }
  template <class T>
  Message& raw(T value) {  // little-endian, as the machine
    out_.append(reinterpret_cast<const char*>(&value), sizeof value);
    return *this;
  }

  std::string out_;
};

constexpr int64_t kString = 7;       // DataType.DT_STRING
constexpr int64_t kTensorClass = 2;  // DataClass.DATA_CLASS_TENSOR
constexpr int64_t kStart = 1;        // SessionLog.START

// Zero bytes and their like would end up in a checksum of their own value: TFRecord turns it.
uint32_t masked_crc(const void* data, size_t bytes) {
  const uint32_t crc = crc32c(data, bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

double now() {
  using Seconds = std::chrono::duration<double>;
  return Seconds(std::chrono::system_clock::now().time_since_epoch()).count();
}

Message event(int64_t step) { return Message().real(1, now()).integer(2, step); }

std::string scalar_value(std::string_view tag, double value) {
  const Message inner = Message().bytes(1, tag).real(2, static_cast<float>(value));
  return Message().message(1, inner).str();
}

std::string text_value(std::string_view tag, std::string_view text) {
  const Message shape = Message().message(2, Message().integer(1, 1));
  const Message tensor = Message().integer(1, kString).message(2, shape).bytes(8, text);
  const Message plugin = Message().message(1, Message().bytes(1, "text")).integer(4, kTensorClass);
  return Message().message(1, Message().bytes(1, tag).message(9, plugin).message(8, tensor)).str();
}

std::string new_path(const std::string& directory) {
  make_dirs(directory);
  char host[256] = "host";
  gethostname(host, sizeof host - 1);
  static std::atomic<int> count{0};
  const auto time = std::chrono::system_clock::now().time_since_epoch();
  const auto nanos = std::chrono::duration_cast<std::chrono::nanoseconds>(time).count();
  // TensorBoard reads the files of a run in the order of their names.
  return fmt::format("{}/events.out.tfevents.{:010d}.{:09d}.{}.{}.{}", directory,
                     nanos / 1'000'000'000, nanos % 1'000'000'000, host, getpid(),
                     count.fetch_add(1));
}

int64_t whole(const Value& value) {
  return value.kind() == Value::Kind::integer ? value.integer() : 0;
}

}  // namespace

TensorBoardTracker::TensorBoardTracker(const std::string& directory)
    : file_(new_path(directory), OpenMode::append) {
  record(Message()
             .real(1, now())
             .bytes(3, "brain.Event:2")
             .message(10, Message().bytes(1, "pinion"))
             .str());
}

void TensorBoardTracker::record(const std::string& data) {
  const uint64_t length = data.size();
  const uint32_t length_crc = masked_crc(&length, sizeof length);
  const uint32_t data_crc = masked_crc(data.data(), data.size());
  std::string out(sizeof length + 2 * sizeof length_crc + data.size(), '\0');
  char* at = out.data();
  const auto put = [&](const void* from, size_t bytes) {
    std::memcpy(at, from, bytes);
    at += bytes;
  };
  put(&length, sizeof length);
  put(&length_crc, sizeof length_crc);
  put(data.data(), data.size());
  put(&data_crc, sizeof data_crc);
  file_.write(out);
}

void TensorBoardTracker::summary(const std::string& values, int64_t step) {
  record(event(step).bytes(5, values).str());
  next_step_ = std::max(next_step_, step + 1);
}

void TensorBoardTracker::scalar(std::string_view tag, double value, int64_t step) {
  summary(scalar_value(tag, value), step);
}

void TensorBoardTracker::text(std::string_view tag, std::string_view text, int64_t step) {
  summary(text_value(tag, text), step);
}

void TensorBoardTracker::image(std::string_view tag, std::string_view png, int width, int height,
                               int channels, int64_t step) {
  PINION_CHECK(channels == 1 || channels == 3 || channels == 4,
               "TensorBoardTracker: expected an image of 1, 3 or 4 channels, got ", channels);
  const Message image =
      Message().integer(1, height).integer(2, width).integer(3, channels).bytes(4, png);
  summary(Message().message(1, Message().bytes(1, tag).message(4, image)).str(), step);
}

void TensorBoardTracker::log(std::span<const Field> record) {
  const Field* by = nullptr;  // "step" rather than "epoch"
  for (const Field& field : record)
    if (field.name == "step" || (!by && field.name == "epoch")) by = &field;
  const int64_t step = by ? whole(by->value) : next_step_;
  std::string values;
  for (const Field& field : record) {
    if (&field == by) continue;
    const Value& v = field.value;
    switch (v.kind()) {
      case Value::Kind::integer:
        values += scalar_value(field.name, static_cast<double>(v.integer()));
        break;
      case Value::Kind::boolean: values += scalar_value(field.name, v.boolean()); break;
      case Value::Kind::real: values += scalar_value(field.name, v.real()); break;
      case Value::Kind::text: values += text_value(field.name, v.text()); break;
    }
  }
  summary(values, step);
}

int64_t TensorBoardTracker::position() {
  file_.sync();
  return next_step_;
}

void TensorBoardTracker::go_back(int64_t position) {
  PINION_REQUIRE(checkpoint, position >= 0, "tracker: expected a step >= 0, got ", position);
  record(event(position).message(7, Message().integer(1, kStart)).str());
  next_step_ = position;
}

}  // namespace pinion::accel
