// SPDX-License-Identifier: Apache-2.0
// The checks that every row of op_cases.h goes through.
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <regex>
#include <set>

#include "op_harness.h"
#include "pinion/runtime/safetensors.h"
#include "pinion/tests/support/paths.h"

namespace pinion::testing {

std::vector<std::string> declared_functions() {
  std::string text, line;
  for (const char* header : {"nn/ops.h", "nn/ops_image.h"}) {
    std::ifstream file(in_source(header));
    while (std::getline(file, line)) text += line.substr(0, line.find("//")) + " ";
  }
  const std::regex declaration(
      R"((?:Tensor|ResidualNorm) (operator\S|\w+)\(([^()]*(?:\{\})?[^()]*)\);)");
  const std::regex parameter(R"((\w+)\s*(?:=.*)?$)");
  std::vector<std::string> functions;
  for (std::sregex_iterator it(text.begin(), text.end(), declaration), end; it != end; ++it) {
    std::string names, list = (*it)[2].str() + ",";
    for (size_t at = 0, comma; (comma = list.find(',', at)) != std::string::npos; at = comma + 1) {
      std::smatch name;
      const std::string part = list.substr(at, comma - at);
      if (std::regex_search(part, name, parameter))
        names += (names.empty() ? "" : ", ") + name.str(1);
    }
    functions.push_back((*it)[1].str() + "(" + names + ")");
  }
  return functions;
}

namespace {

constexpr Isa kRungs[] = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::amx};

class Op : public ::testing::TestWithParam<OpCase> {};  // every row
class SmallOp : public Op {};                           // what need not be tried on large ones
class Gradients : public Op {};                         // small rows with a gradient
class SmoothOp : public Op {};                          // differences can check these
class GoldenOp : public Op {};

// d(y . r)/dx against central differences in f64, r arbitrary. Differences are taken per element of
// y, so that what does not depend on the element of x adds no rounding.
TEST_P(SmoothOp, GradientMatchesDifferences) {
  const OpCase& c = GetParam();
  Tensors x = make_leaves(c, DType::f64);
  const Tensor r = make_cotangent(c.run(x));
  const Result result = run_row(c, x, r);
  const std::vector<double> weights = reals(r);
  double largest = 0;  // |y|
  for (const double y : reals(result.y)) largest = std::max(largest, std::abs(y));
  const auto run = [&] {
    const NoGrad no_grad;
    return reals(c.run(x));
  };
  constexpr double kStep = 1e-5;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i].requires_grad()) continue;
    ASSERT_TRUE(result.dx[i].defined()) << "input " << i << " got no gradient";
    const std::vector<double> gradient = reals(result.dx[i]);
    double* p = x[i].mut().as<double>();
    const int64_t n = x[i].numel(), stride = std::max<int64_t>(1, n / (c.large() ? 4 : 200));
    for (int64_t j = 0; j < n; j += stride) {
      const double middle = p[j];
      p[j] = middle + kStep;
      const std::vector<double> up = run();
      p[j] = middle - kStep;
      const std::vector<double> down = run();
      p[j] = middle;
      double expected = 0;
      for (size_t k = 0; k < up.size(); ++k)
        expected += (up[k] - down[k]) / (2 * kStep) * weights[k];
      // Of the differences: the third derivative, and the rounding of y.
      const double tolerance = 2e-7 * std::abs(expected) + 1e-9 + 1e-15 * largest / kStep;
      ASSERT_NEAR(gradient[static_cast<size_t>(j)], expected, tolerance)
          << "input " << i << " element " << j;
    }
  }
}

// A closure that captures its own result would keep the graph for ever.
TEST_P(SmallOp, GraphIsFreed) {
  const OpCase& c = GetParam();
  const int64_t before = memory_stats({}).live;
  {
    Tensors x = make_leaves(c, DType::f32);
    const Tensor dropped = c.run(x);
    run_row(c, x);
  }
  EXPECT_EQ(memory_stats({}).live, before);
}

const SafetensorsReader& golden_file() {
  static const SafetensorsReader file(in_source("tests/golden/ops.safetensors"));
  return file;
}

TEST_P(GoldenOp, MatchesPyTorch) {
  const OpCase& c = GetParam();
  const auto golden = [&](const std::string& part) -> Tensor {
    const SafetensorsEntry* entry = golden_file().find(std::string(c.name) + "." + part);
    return entry ? golden_file().load(*entry) : Tensor();
  };
  const Tensor y = golden("y");
  ASSERT_TRUE(y.defined()) << "tools/make_golden.py has no row of this name";
  Tensors x;
  for (size_t i = 0; i < c.inputs.size(); ++i) {
    Tensor leaf = golden("x" + std::to_string(i));
    ASSERT_TRUE(leaf.defined() && leaf.dtype() == dtype_for(c.inputs[i], DType::f32));
    ASSERT_EQ(leaf.shape(), c.inputs[i].shape) << "input " << i;
    leaf.requires_grad(c.differentiable() && c.inputs[i].differentiable());
    x.push_back(std::move(leaf));
  }
  const Result got = run_row(c, x, golden("dy"));
  const auto compare = [](const std::string& what, const Tensor& a, const Tensor& b) {
    ASSERT_TRUE(a.defined() && b.defined()) << what;
    ASSERT_EQ(a.shape(), b.shape()) << what;
    ASSERT_EQ(a.dtype(), b.dtype()) << what;
    const std::vector<double> p = reals(a), q = reals(b);
    for (size_t i = 0; i < q.size(); ++i)
      ASSERT_NEAR(p[i], q[i], 2e-6 * (1 + std::abs(q[i]))) << what << ", element " << i;
  };
  compare("the result", got.y, y);
  for (size_t i = 0; i < x.size(); ++i)
    if (x[i].requires_grad())
      compare("the gradient of input " + std::to_string(i), got.dx[i],
              golden("dx" + std::to_string(i)));
}

TEST_P(Op, BitsDoNotDependOnThreads) {
  const OpCase& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Result first;
    for (const int threads : {1, 2, 4, 8}) {
      const CpuContextGuard guard(threads);
      SCOPED_TRACE(cat({dtype, " with ", threads, " threads"}));
      Result result = run_row(c, dtype);
      if (threads == 1)
        first = std::move(result);
      else
        expect_same_bits(result, first);
    }
  }
}

TEST_P(Op, RungsAgree) {
  const OpCase& c = GetParam();
  for (const DType dtype : {DType::f32, DType::bf16}) {
    Result lowest;
    for (const Isa isa : kRungs) {
      if (isa > best_isa()) break;
      const CpuContextGuard guard(2, isa);
      SCOPED_TRACE(cat({dtype, " on ", name_of(isa)}));
      Result result = run_row(c, dtype);
      if (isa == Isa::scalar)
        lowest = std::move(result);
      else
        expect_close(result, lowest, dtype == DType::f32 ? 2e-6 : 1e-2,
                     dtype == DType::f32 ? 5e-6 : 2e-2);
    }
  }
}

// Each type against f64 on the same inputs, which were rounded to that type first.
TEST_P(Op, TypesAgree) {
  const OpCase& c = GetParam();
  const struct {
    DType dtype;
    double y_bound, dx_bound;
  } types[] = {{DType::f32, 2e-6, 5e-6}, {DType::bf16, 1e-2, 2e-2}, {DType::f16, 2e-3, 4e-3}};
  for (const auto& [dtype, y_bound, dx_bound] : types) {
    SCOPED_TRACE(cat({dtype}));
    Tensors x = make_leaves(c, dtype), wide;
    for (size_t i = 0; i < x.size(); ++i) {
      const DType type = dtype_for(c.inputs[i], DType::f64);
      wide.push_back(converted(x[i], type).requires_grad(x[i].requires_grad()));
    }
    const Tensor y = c.run(x), reference = c.run(wide);
    const Tensor dy = make_cotangent(y);
    EXPECT_TRUE(c.differentiable() == (y.node() != nullptr));
    const Result expected = run_row(c, wide, converted(dy, reference.dtype()));
    expect_close(run_row(c, x, dy), expected, y_bound, dx_bound);
  }
}

TEST_P(Gradients, RepeatAndAccumulate) {
  const OpCase& c = GetParam();
  const CpuContextGuard guard(4);
  Tensors x = make_leaves(c, DType::f32);
  const Result once = run_row(c, x);
  expect_same_bits(run_row(c, x), once);
  const Tensor y = c.run(x);
  backward(y, make_cotangent(y));  // on top of the gradients of the last run
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i].requires_grad()) continue;
    EXPECT_LE(relative_error(x[i].grad(), once.dx[i] + once.dx[i]), 1e-6) << "input " << i;
  }
}

// In a flat arena, as optimizers keep them: same bits, left where the slot is.
TEST_P(Gradients, LandInTheirSlots) {
  const OpCase& c = GetParam();
  Tensors x = make_leaves(c, DType::f32);
  const Result expected = run_row(c, x);
  std::vector<Tensor> slots(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    if (!x[i].requires_grad()) continue;
    slots[i] = Tensor::full(x[i].shape(), 123);  // what an earlier step left there
    x[i].set_grad({});
    x[i].set_grad_slot(slots[i]);
  }
  expect_same_bits(run_row(c, x), expected);
  expect_same_bits(run_row(c, x), expected);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!slots[i].defined()) continue;
    EXPECT_EQ(bits(slots[i]), bits(expected.dx[i])) << "input " << i;
  }
}

// An input that wants no gradient gets none, and changes nobody else's.
TEST_P(Gradients, LeaveFrozenInputsOut) {
  const OpCase& c = GetParam();
  Tensors x = make_leaves(c, DType::f32);
  const Result all = run_row(c, x);
  for (size_t i = 0; i < x.size(); ++i) {
    if (!c.inputs[i].differentiable()) continue;
    for (size_t j = 0; j < x.size(); ++j)
      if (c.inputs[j].differentiable()) x[j].requires_grad(i == j);
    const Result one = run_row(c, x);
    EXPECT_EQ(bits(one.y), bits(all.y));
    for (size_t j = 0; j < x.size(); ++j) {
      ASSERT_EQ(one.dx[j].defined(), i == j) << "gradient of " << j << " with only " << i;
      if (i != j) continue;
      EXPECT_EQ(bits(one.dx[j]), bits(all.dx[j])) << "input " << j;
    }
  }
}

TEST_P(SmallOp, RecordsNothingUnderNoGrad) {
  const OpCase& c = GetParam();
  const Tensors x = make_leaves(c, DType::f32);
  const NoGrad no_grad;
  const Tensor y = c.run(x);
  EXPECT_EQ(y.node(), nullptr);
  EXPECT_FALSE(y.requires_grad());
}

template <class Wanted>
auto rows(Wanted&& wanted) {
  std::vector<OpCase> chosen;
  for (const OpCase& c : op_cases())
    if (wanted(c)) chosen.push_back(c);
  return ::testing::ValuesIn(chosen);
}

std::string name_of_row(const ::testing::TestParamInfo<OpCase>& row) { return row.param.name; }

INSTANTIATE_TEST_SUITE_P(Row, Op, ::testing::ValuesIn(op_cases()), name_of_row);
INSTANTIATE_TEST_SUITE_P(Row, SmallOp, rows([](const OpCase& c) { return !c.large(); }),
                         name_of_row);
INSTANTIATE_TEST_SUITE_P(Row, Gradients,
                         rows([](const OpCase& c) { return !c.large() && c.differentiable(); }),
                         name_of_row);
INSTANTIATE_TEST_SUITE_P(Row, SmoothOp,
                         rows([](const OpCase& c) { return c.gradient == Gradient::smooth; }),
                         name_of_row);
INSTANTIATE_TEST_SUITE_P(Row, GoldenOp,
                         rows([](const OpCase& c) { return !c.large() && !c.no_golden; }),
                         name_of_row);

TEST(OpRows, CoverEveryFunctionOfTheHeader) {
  const std::vector<std::string> declared = declared_functions();
  EXPECT_GE(declared.size(), 40u) << "nn/ops.h was not understood";
  std::set<std::string> known(declared.begin(), declared.end()), covered;
  for (const OpCase& c : op_cases()) {
    EXPECT_TRUE(known.count(c.function)) << c.name << ": nn/ops.h does not declare " << c.function;
    covered.insert(c.function);
  }
  for (const std::string& function : declared)
    EXPECT_TRUE(covered.count(function)) << function << " has no row in op_cases.h";
}

TEST(OpRows, HaveNamesOfTheirOwnAndNoStrayGoldenValues) {
  std::set<std::string> names;
  for (const OpCase& c : op_cases()) EXPECT_TRUE(names.insert(c.name).second) << c.name;
  for (const SafetensorsEntry& entry : golden_file().entries())
    EXPECT_TRUE(names.count(entry.name.substr(0, entry.name.find('.')))) << entry.name;
}

}  // namespace
}  // namespace pinion::testing
