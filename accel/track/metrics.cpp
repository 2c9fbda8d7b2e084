// SPDX-License-Identifier: Apache-2.0
// Metrics on the CPU read logits in place; on a device means and accuracy add up there, and a
// confusion matrix takes a copy, which waits for the device.
#include "pinion/accel/track/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "pinion/accel/track/text.h"
#include "pinion/kernels/kernels.h"
#include "pinion/runtime/graph.h"
#include "pinion/runtime/log.h"

namespace pinion::accel {

namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

double ratio(int64_t part, int64_t whole, double otherwise) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : otherwise;
}

// The first maximum of a row; a NaN is larger than every number. Written without branches: the
// outcome of a comparison of logits is as good as random to a predictor.
template <class T>
int64_t argmax_of(const T* row, int64_t classes) {
  int64_t best = 0;
  auto top = static_cast<Accumulator<T>>(row[0]);
  for (int64_t c = 1; c < classes; ++c) {
    const auto v = static_cast<Accumulator<T>>(row[c]);
    const bool better = (v > top) | ((v != v) & (top == top));
    best = better ? c : best;
    top = better ? v : top;
  }
  return best;
}

// f(row, class) for every row of logits.
template <class F>
void for_predictions(const char* op, const Tensor& logits, F&& f) {
  PINION_CHECK(logits.rank() == 2 && logits.size(1) >= 1, op, ": logits must be [n, classes], got ",
               logits.shape());
  const Tensor host = logits.to(Device{});
  const int64_t rows = host.size(0), classes = host.size(1);
  for_float(host.dtype(), op, [&]<class T>() {
    const T* row = host.view().as<T>();
    for (int64_t r = 0; r < rows; ++r, row += classes) f(r, argmax_of(row, classes));
  });
}

void check_labels(const char* op, const Tensor& logits, const Tensor& labels) {
  PINION_CHECK(labels.dtype() == DType::i64, op, ": labels must be i64, got ", labels.dtype());
  PINION_CHECK(logits.rank() == 2 && labels.rank() == 1 && labels.size(0) == logits.size(0), op,
               ": labels must be [n] for logits [n, classes], got ", labels.shape(), " for ",
               logits.shape());
}

}  // namespace

void Mean::add(const Tensor& value, double weight) {
  PINION_CHECK(value.rank() == 0, "Mean: expected a value of no dimensions, got ", value.shape());
  const Device device = value.device();
  if (device.kind == Device::Kind::cpu) return add(value.item(), weight);
  if (!device_sum_.defined()) device_sum_ = Tensor::full({}, 0, DType::f64, device);
  Tensor wide({}, DType::f64, device);
  on(device, [&](auto& ctx) {
    kernels::cast(ctx, value, wide.mut());
    kernels::affine(ctx, wide, weight, 0, wide.mut());
    kernels::add(ctx, device_sum_, wide, device_sum_.mut());
  });
  weight_ += weight;
  on_replay([this, weight] { weight_ += weight; });
}

double Mean::value() const {
  const double on_device = device_sum_.defined() ? device_sum_.to({}).item() : 0;
  return weight_ != 0 ? (sum_ + on_device) / weight_ : kNaN;
}

// Recorded steps know the place of the sum: it stays.
void Mean::reset() {
  sum_ = weight_ = 0;
  if (device_sum_.defined()) device_sum_.copy_(Tensor::full({}, 0, DType::f64));
}

double Accuracy::value() const { return ratio(correct(), total_, kNaN); }

int64_t Accuracy::correct() const {
  if (!device_correct_.defined()) return correct_;
  return correct_ + device_correct_.to({}).view().as<int64_t>()[0];
}

void Accuracy::reset() {
  correct_ = total_ = 0;
  if (device_correct_.defined()) device_correct_.copy_(Tensor::full({}, 0, DType::i64));
}

void Accuracy::add(const Tensor& logits, const Tensor& labels) {
  check_labels("Accuracy", logits, labels);
  if (const Device device = logits.device(); device.kind != Device::Kind::cpu) {
    if (!device_correct_.defined()) device_correct_ = Tensor::full({}, 0, DType::i64, device);
    const int64_t n = logits.size(0);
    Tensor top({n}, logits.dtype(), device), index({n}, DType::i64, device);
    on(device, [&](auto& ctx) {
      const ConstView x{logits.view().data, {n, logits.size(1), 1}, logits.dtype()};
      kernels::max_axis(ctx, x, top.mut(), index.mut());
      kernels::count_equal(ctx, index, labels, device_correct_.mut());
    });
    total_ += n;
    return on_replay([this, n] { total_ += n; });
  }
  const Tensor host = labels.to(Device{});
  const int64_t* label = host.view().as<int64_t>();
  int64_t correct = 0;
  for_predictions("Accuracy", logits, [&](int64_t r, int64_t c) { correct += c == label[r]; });
  add(correct, logits.size(0));
}

ConfusionMatrix::ConfusionMatrix(std::vector<std::string> class_names)
    : names_(std::move(class_names)), counts_(names_.size() * names_.size()) {
  PINION_CHECK(!names_.empty(), "ConfusionMatrix: there must be at least one class");
}

ConfusionMatrix::ConfusionMatrix(int64_t classes)
    : ConfusionMatrix([&] {
        PINION_CHECK(classes >= 1, "ConfusionMatrix: classes must be at least 1, got ", classes);
        std::vector<std::string> names;
        for (int64_t c = 0; c < classes; ++c) names.push_back(std::to_string(c));
        return names;
      }()) {}

void ConfusionMatrix::add(int64_t truth, int64_t predicted) {
  PINION_CHECK(truth >= 0 && truth < classes() && predicted >= 0 && predicted < classes(),
               "ConfusionMatrix: classes must lie in [0, ", classes(), "), got ", truth, " and ",
               predicted);
  ++counts_[static_cast<size_t>(truth * classes() + predicted)];
}

void ConfusionMatrix::add(const Tensor& logits, const Tensor& labels) {
  check_labels("ConfusionMatrix", logits, labels);
  const Tensor host = labels.to(Device{});
  const int64_t* label = host.view().as<int64_t>();
  for_predictions("ConfusionMatrix", logits, [&](int64_t r, int64_t c) { add(label[r], c); });
}

int64_t ConfusionMatrix::count(int64_t truth, int64_t predicted) const {
  return counts_[static_cast<size_t>(truth * classes() + predicted)];
}

int64_t ConfusionMatrix::total() const {
  int64_t sum = 0;
  for (const int64_t n : counts_) sum += n;
  return sum;
}

int64_t ConfusionMatrix::support(int64_t truth) const {
  int64_t sum = 0;
  for (int64_t c = 0; c < classes(); ++c) sum += count(truth, c);
  return sum;
}

int64_t ConfusionMatrix::predicted(int64_t c) const {
  int64_t sum = 0;
  for (int64_t t = 0; t < classes(); ++t) sum += count(t, c);
  return sum;
}

double ConfusionMatrix::accuracy() const {
  int64_t correct = 0;
  for (int64_t c = 0; c < classes(); ++c) correct += count(c, c);
  return ratio(correct, total(), kNaN);
}

double ConfusionMatrix::precision(int64_t c) const { return ratio(count(c, c), predicted(c), 0); }
double ConfusionMatrix::recall(int64_t c) const { return ratio(count(c, c), support(c), 0); }
double ConfusionMatrix::f1(int64_t c) const {
  return ratio(2 * count(c, c), predicted(c) + support(c), 0);
}

std::string ConfusionMatrix::text() const {
  constexpr size_t kMostNamed = 24;  // columns of a name; the rest is cut
  std::vector<std::string> names;
  size_t first = sizeof "true \\ predicted" - 1;
  for (const std::string& name : names_) {
    names.push_back(clipped(escaped(name), kMostNamed));
    first = std::max(first, columns_of(names.back()));
  }
  std::vector<size_t> width;
  for (int64_t c = 0; c < classes(); ++c) {
    size_t w = columns_of(names[static_cast<size_t>(c)]);
    for (int64_t t = 0; t < classes(); ++t) w = std::max(w, std::to_string(count(t, c)).size());
    width.push_back(w);
  }
  std::string out = padded("true \\ predicted", first, Align::left);
  for (size_t c = 0; c < names.size(); ++c) out += "  " + padded(names[c], width[c], Align::right);
  out += "  precision  recall\n";
  for (int64_t t = 0; t < classes(); ++t) {
    out += padded(names[static_cast<size_t>(t)], first, Align::left);
    for (int64_t c = 0; c < classes(); ++c)
      out += fmt::format("  {:>{}}", count(t, c), width[static_cast<size_t>(c)]);
    out += fmt::format("  {:8.1f}%  {:5.1f}%\n", 100 * precision(t), 100 * recall(t));
  }
  return out;
}

std::vector<int64_t> predicted_classes(const Tensor& logits) {
  std::vector<int64_t> out;
  out.reserve(static_cast<size_t>(logits.size(0)));
  for_predictions("predicted_classes", logits, [&](int64_t, int64_t c) { out.push_back(c); });
  return out;
}

}  // namespace pinion::accel
