// SPDX-License-Identifier: Apache-2.0
// Profile: where the host's time goes, as a trace that chrome://tracing and ui.perfetto.dev show:
// the spans a program names, and every differentiable op, forward and backward.
//
//   {
//     accel::Profile profile("trace.json");
//     for (…) {
//       accel::ProfileSpan span("step");
//       …
//     }
//   }  // written here
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace pinion::accel {

// What all events of one name took together, without the events inside of them.
struct ProfileShare {
  std::string name;  // of an op's backward pass: "linear, backward"
  int64_t count;
  double seconds;
};

// Records while it lives; one at a time in a process. On a CUDA device an op's time is that of its
// launch. Forward ops appear where gradients are recorded, each from the end of what its thread did
// before.
class Profile {
 public:
  // `rank` is the process of the trace: the files of several ranks can be shown together.
  explicit Profile(std::string path, int rank = 0);
  ~Profile();  // writes the file unless stop() did; an error of that is lost, but for a warning
  Profile(const Profile&) = delete;
  Profile& operator=(const Profile&) = delete;

  void stop();  // writes the file
  int64_t events() const;
  std::vector<ProfileShare> shares() const;  // of the events so far, the largest first

  struct Recorder;

 private:
  std::unique_ptr<Recorder> recorder_;
};

// A span of the trace, from its construction to the end of its scope. Without a profile it does
// nothing. The name must be a literal, or live until the profile is written.
class ProfileSpan {
 public:
  explicit ProfileSpan(const char* name);
  ~ProfileSpan();
  ProfileSpan(const ProfileSpan&) = delete;
  ProfileSpan& operator=(const ProfileSpan&) = delete;

 private:
  const char* name_;
  int64_t begin_;  // ns; below zero: there was no profile
};

}  // namespace pinion::accel
