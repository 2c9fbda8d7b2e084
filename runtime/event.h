// SPDX-License-Identifier: Apache-2.0
// A point in the order of a device's work, to wait for and to take times between.
#pragma once

#include "pinion/runtime/device.h"

namespace pinion {

class Event {
 public:
  explicit Event(Device device);
  ~Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;

  void record();       // behind the work launched so far; again for another point
  bool reached();      // whether the device has come there; true before record()
  void synchronize();  // waits until it has
  // The device's time from `earlier`, recorded on the same device, to here. Waits for both.
  double milliseconds_since(Event& earlier);

 private:
  const Device device_;
  void* mark_ = nullptr;  // of a CUDA device
  int64_t at_ = 0;  // ns of a steady clock, on the CPU, whose work is done when it is launched
};

}  // namespace pinion
