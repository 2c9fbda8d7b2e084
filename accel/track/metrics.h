// SPDX-License-Identifier: Apache-2.0
// Running figures of a training or a test: means, accuracy, and the confusion matrix.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pinion/runtime/tensor.h"

namespace pinion::accel {

// The weighted mean of what was added; NaN when nothing was. What lies on a device is summed there:
// only value() waits for it, and add() may be part of a recorded step (runtime/graph.h).
class Mean {
 public:
  void add(double value, double weight = 1) { sum_ += value * weight, weight_ += weight; }
  void add(const Tensor& value, double weight = 1);  // floating []
  double value() const;
  void reset();

 private:
  double sum_ = 0, weight_ = 0;
  Tensor device_sum_;  // f64 []
};

// The share of rows whose largest logit is the labelled class; from 0 to 1, NaN when nothing was
// added. The first of equal logits counts, and NaN as the largest, as in nn::argmax. What lies on a
// device is counted there, as in Mean.
class Accuracy {
 public:
  void add(const Tensor& logits, const Tensor& labels);  // [n, classes] floating, i64 [n]
  void add(int64_t correct, int64_t total) { correct_ += correct, total_ += total; }
  double value() const;
  int64_t correct() const;
  int64_t total() const { return total_; }
  void reset();

 private:
  int64_t correct_ = 0, total_ = 0;
  Tensor device_correct_;  // i64 []
};

// Counts of (true class, predicted class).
class ConfusionMatrix {
 public:
  explicit ConfusionMatrix(std::vector<std::string> class_names);
  explicit ConfusionMatrix(int64_t classes);  // named "0", "1", …

  void add(const Tensor& logits, const Tensor& labels);  // [n, classes] floating, i64 [n]
  void add(int64_t truth, int64_t predicted);

  int64_t classes() const { return static_cast<int64_t>(names_.size()); }
  const std::string& name(int64_t c) const { return names_[static_cast<size_t>(c)]; }
  int64_t count(int64_t truth, int64_t predicted) const;
  int64_t total() const;
  int64_t support(int64_t truth) const;  // how many samples are of this class
  double accuracy() const;               // NaN when nothing was added
  // Of what was predicted as c, the share that is c; of what is c, the share predicted as c; and
  // their harmonic mean. 0 where nothing was predicted, or is, of the class.
  double precision(int64_t c) const;
  double recall(int64_t c) const;
  double f1(int64_t c) const;

  // A table for a terminal: one row a true class, with its precision and recall at the end.
  std::string text() const;

 private:
  int64_t predicted(int64_t c) const;

  std::vector<std::string> names_;
  std::vector<int64_t> counts_;  // [truth, predicted]
};

// The class of each row of logits [n, classes], by the rule of Accuracy.
std::vector<int64_t> predicted_classes(const Tensor& logits);

}  // namespace pinion::accel
