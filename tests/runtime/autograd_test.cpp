// SPDX-License-Identifier: Apache-2.0
// The engine: who gets which gradient, when hooks run, what is freed, and what is refused.
#include "pinion/runtime/autograd.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>
#include <vector>

#include "pinion/nn/ops.h"

namespace pinion {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Tensor leaf(std::initializer_list<float> values) {
  Tensor t = Tensor::of(values, {static_cast<int64_t>(values.size())});
  return t.requires_grad(true);
}

std::vector<float> grad(const Tensor& x) { return x.grad().values<float>(); }

template <class F>
std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    EXPECT_EQ(e.kind(), ErrorKind::internal);
    return e.what();
  }
  return "nothing was thrown";
}

// Orders of creation are counted per thread: what builds on another thread's results must come
// after.
TEST(Threads, AGraphMayBeContinuedOnAnother) {
  Tensor x = Tensor::full({1}, 1).requires_grad(true);
  Tensor y = x;
  std::thread([&] {
    for (int i = 0; i < 100; ++i) y = y * 1.0;
  }).join();
  std::thread([&] { backward(y * 3.0 + x); }).join();
  EXPECT_EQ(x.grad().item(), 4);
}

TEST(Autograd, Chain) {
  const Tensor x = leaf({1, -2, 3});
  backward(nn::sum(nn::affine(nn::relu(x * 3), 2, 1)));
  EXPECT_THAT(grad(x), ElementsAre(6, 0, 6));
}

TEST(Autograd, Diamond) {
  const Tensor x = leaf({2, 3});
  const Tensor y = x * x;
  const Tensor z = y * 3 + y * y;  // dz/dy = 3 + 2 y
  backward(nn::sum(z));
  EXPECT_THAT(grad(x), ElementsAre((3 + 2 * 4) * 2 * 2, (3 + 2 * 9) * 2 * 3));
}

TEST(Autograd, DiamondOfSharedGradientBlocks) {
  // Addition hands one block to both inputs, reshape hands on an alias: sums must not write into
  // it.
  const Tensor x = leaf({1, 2});
  const Tensor y = x + x;
  const Tensor z = nn::reshape(y, {2, 1}) + nn::reshape(y, {2, 1});
  const Tensor w = nn::reshape(z, {2}) + y;
  backward(w, Tensor::of({1.0f, 10.0f}, {2}));
  EXPECT_THAT(grad(x), ElementsAre(6, 60));
}

TEST(Autograd, CallersCotangentIsLeftAlone) {
  const Tensor x = leaf({1, 2}), y = leaf({3, 4});
  const Tensor dy = Tensor::of({5.0f, 6.0f}, {2});
  backward(x + y, dy);
  x.grad().mut();  // the leaf owns its gradient: it is not dy's block, nor the other leaf's
  EXPECT_NE(x.grad().view().data, dy.view().data);
  EXPECT_NE(x.grad().view().data, y.grad().view().data);
  backward(x + x, dy);
  EXPECT_THAT(dy.values<float>(), ElementsAre(5, 6));
  EXPECT_THAT(grad(x), ElementsAre(15, 18));
  EXPECT_THAT(grad(y), ElementsAre(5, 6));
}

TEST(Autograd, SharedLeafGathersEveryUse) {
  const Tensor w = leaf({2, 2}), a = leaf({1, 2}), b = leaf({3, 4});
  backward(nn::sum(a * w) + nn::sum(b * w) + nn::sum(w));
  EXPECT_THAT(grad(w), ElementsAre(5, 7));
  EXPECT_THAT(grad(a), ElementsAre(2, 2));
}

TEST(Autograd, GradientsAddUpOverCallsUntilCleared) {
  Tensor x = leaf({1, 2});
  EXPECT_FALSE(x.grad().defined());
  backward(nn::sum(x * 2));
  backward(nn::sum(x * 3));
  EXPECT_THAT(grad(x), ElementsAre(5, 5));
  x.set_grad({});
  EXPECT_FALSE(x.grad().defined());
  backward(nn::sum(x * 3));
  EXPECT_THAT(grad(x), ElementsAre(3, 3));
}

TEST(Autograd, UnusedAndConstantTensorsGetNothing) {
  const Tensor x = leaf({1, 2}), unused = leaf({3, 4});
  const Tensor constant = Tensor::of({5.0f, 6.0f}, {2});
  backward(nn::sum(x * constant));
  EXPECT_THAT(grad(x), ElementsAre(5, 6));
  EXPECT_FALSE(unused.grad().defined());
  EXPECT_FALSE(constant.grad().defined());
  EXPECT_FALSE((constant * constant).requires_grad());
}

TEST(Autograd, DetachCutsTheGraph) {
  const Tensor x = leaf({3});
  const Tensor y = x * x;
  backward(nn::sum(y.detach() * x));  // y counts as a constant
  EXPECT_THAT(grad(x), ElementsAre(9));
}

// --- slots --------------------------------------------------------------------------------------

TEST(GradSlot, ReceivesTheGradientWhereItLies) {
  Tensor arena = Tensor::full({4}, 77);
  Tensor x = leaf({1, 2}), y = leaf({3, 4});
  x.set_grad_slot(arena.rows(0, 2));
  y.set_grad_slot(arena.rows(2, 4));
  EXPECT_FALSE(x.grad().defined()) << "an empty slot is no gradient";
  backward(nn::sum(x * y));
  EXPECT_THAT(arena.values<float>(), ElementsAre(3, 4, 1, 2));
  EXPECT_EQ(x.grad().view().data, arena.view().data);
  backward(nn::sum(x * y));
  EXPECT_THAT(arena.values<float>(), ElementsAre(6, 8, 2, 4)) << "adds to what is there";
  x.set_grad({});
  backward(nn::sum(x * y));
  EXPECT_THAT(arena.values<float>(), ElementsAre(3, 4, 3, 6)) << "a cleared one starts afresh";
}

TEST(GradSlot, HoldsASumOfManyUses) {
  Tensor slot = Tensor::full({2}, 77), x = leaf({2, 3});
  x.set_grad_slot(slot);
  backward(nn::sum(x * x) + nn::sum(x * 5) + nn::sum(x + x));
  EXPECT_THAT(slot.values<float>(), ElementsAre(4 + 5 + 2, 6 + 5 + 2));
}

TEST(GradSlot, KeepsAGradientThatWasThereBefore) {
  Tensor slot = Tensor::full({2}, 77), x = leaf({2, 3});
  backward(nn::sum(x * 4));
  x.set_grad_slot(slot);
  EXPECT_THAT(slot.values<float>(), ElementsAre(4, 4));
  backward(nn::sum(x * 1.5));
  EXPECT_THAT(grad(x), ElementsAre(5.5, 5.5));
}

TEST(GradSlot, OfAnotherShapeIsRefused) {
  Tensor x = leaf({1, 2});
  EXPECT_THAT(error_of([&] { x.set_grad_slot(Tensor({3})); }), HasSubstr("set_grad_slot"));
  EXPECT_THAT(error_of([&] { x.set_grad_slot(Tensor({2}, DType::f64)); }),
              HasSubstr("set_grad_slot"));
}

TEST(GradSlot, ThatIsClaimedAndNotWrittenIsFound) {
#ifdef NDEBUG
  GTEST_SKIP() << "debug builds look";
#endif
  for (const bool elsewhere : {false, true}) {  // where the closure puts the gradient
    Tensor slot = Tensor::full({2}, 77), x = leaf({2, 3});
    x.set_grad_slot(slot);
    const auto half = [x, elsewhere](const Tensor& dy) -> Tensors {
      Tensor dx = gradient_for(x);
      dx.rows(0, 1).copy_(dy.rows(0, 1));
      return {elsewhere ? dy.clone() : dx};
    };
    const Tensor y = record("half", Tensor::full({2}, 1), {&x}, half);
    EXPECT_THAT(error_of([&] { backward(nn::sum(y)); }),
                ::testing::AllOf(HasSubstr("half"), HasSubstr("input 0")));
  }
}

// --- hooks --------------------------------------------------------------------------------------

TEST(LeafHook, RunsOnceAfterTheLastContribution) {
  Tensor w = leaf({1, 1}), v = leaf({1, 1});
  std::vector<std::string> calls;
  w.on_grad_ready([&](const Tensor& t) {
    EXPECT_TRUE(t.same(w));
    EXPECT_THAT(grad(t), ElementsAre(2 * 3 + 5, 2 * 3 + 5));
    calls.push_back("w");
  });
  v.on_grad_ready([&](const Tensor& t) {
    EXPECT_THAT(grad(t), ElementsAre(3, 3));
    calls.push_back("v");
  });
  for (int step = 0; step < 2; ++step) {
    const Tensor a = w * w;  // two contributions by one op
    const Tensor b = a * 3;
    const Tensor c = b + w * 5;  // and one more
    const Tensor d = v * 3;
    calls.clear();
    w.set_grad({});
    v.set_grad({});
    backward(nn::sum(c + d));
    EXPECT_THAT(calls, ElementsAre("v", "w")) << "newest uses first, in step " << step;
  }
}

TEST(LeafHook, OfALeafThatIsNotReachedIsSilent) {
  Tensor x = leaf({1}), y = leaf({1});
  int calls = 0;
  y.on_grad_ready([&](const Tensor&) { ++calls; });
  backward(nn::sum(x * 2));
  EXPECT_EQ(calls, 0);
  backward(nn::sum(x * y));
  EXPECT_EQ(calls, 1);
}

TEST(LeafHook, SeveralRunInTheirOrder) {
  Tensor x = leaf({1});
  std::vector<int> calls;
  x.on_grad_ready([&](const Tensor&) { calls.push_back(1); });
  x.on_grad_ready([&](const Tensor&) { calls.push_back(2); });
  backward(nn::sum(x + x));
  EXPECT_THAT(calls, ElementsAre(1, 2));
}

TEST(LeafHook, ErrorPassesThroughAndLaterPassesWork) {
  Tensor x = leaf({1});
  bool angry = true;
  x.on_grad_ready([&](const Tensor&) {
    if (angry) fail(ErrorKind::internal, {"from the hook"});
  });
  EXPECT_EQ(error_of([&] { backward(nn::sum(x * 2)); }), "from the hook");
  EXPECT_TRUE(grad_enabled()) << "the engine's NoGrad ends with the error";
  angry = false;
  x.set_grad({});
  backward(nn::sum(x * 2));
  EXPECT_THAT(grad(x), ElementsAre(2));
}

// --- NoGrad ---------------------------------------------------------------------------------

TEST(NoGradScope, RecordsNothingAndNests) {
  const Tensor x = leaf({1});
  EXPECT_TRUE(grad_enabled());
  {
    const NoGrad outer;
    {
      const NoGrad inner;
      EXPECT_FALSE(grad_enabled());
    }
    EXPECT_FALSE(grad_enabled());
    EXPECT_FALSE((x * 2).requires_grad());
    bool other_thread = false;
    std::thread([&] { other_thread = grad_enabled(); }).join();
    EXPECT_TRUE(other_thread) << "it holds for its own thread only";
  }
  EXPECT_TRUE((x * 2).requires_grad());
}

TEST(NoGradScope, HoldsInsideBackward) {
  const Tensor x = leaf({1});
  bool enabled = true;
  const Tensor y = record("probe", x.clone(), {&x}, [&](const Tensor& dy) -> Tensors {
    enabled = grad_enabled();
    return {dy};
  });
  backward(y);
  EXPECT_FALSE(enabled);
  EXPECT_TRUE(grad_enabled());
}

// --- refusals -------------------------------------------------------------------------------

TEST(Refused, SecondBackwardThroughOneGraph) {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * x, loss = nn::sum(y);
  backward(loss);
  EXPECT_THAT(error_of([&] { backward(loss); }), HasSubstr("backward: "));
  EXPECT_THAT(error_of([&] { backward(nn::sum(y * 2)); }), HasSubstr("multiply"))
      << "names the op that was differentiated before";
  EXPECT_THAT(grad(x), ElementsAre(2, 4)) << "and changes nothing";
}

TEST(Refused, BackwardWithoutAGraph) {
  const Tensor constant = Tensor::of({1.0f}, {1});
  EXPECT_THAT(error_of([&] { backward(constant); }), HasSubstr("backward: "));
  EXPECT_THAT(error_of([&] { backward(Tensor()); }), HasSubstr("undefined"));
  const Tensor x = leaf({1});
  EXPECT_THAT(error_of([&] { backward(x); }), HasSubstr("backward: "));
}

TEST(Refused, ManyElementsWithoutTheirGradient) {
  const Tensor x = leaf({1, 2});
  const Tensor y = x * 2;
  EXPECT_THAT(error_of([&] { backward(y); }), HasSubstr("[2]"));
  EXPECT_THAT(error_of([&] { backward(y, Tensor({3})); }), HasSubstr("[2]"));
  EXPECT_THAT(error_of([&] { backward(y, Tensor({2}, DType::f64)); }), HasSubstr("f32"));
  EXPECT_THAT(error_of([&] { backward(y, Tensor()); }), HasSubstr("backward: "));
  backward(y, Tensor::full({2}, 1));
  EXPECT_THAT(grad(x), ElementsAre(2, 2));
}

TEST(Refused, ClosuresThatReturnWhatDoesNotFit) {
  const Tensor x = leaf({1, 2});
  const auto op = [&](const Tensors& gradients) {
    return record("odd", x.clone(), {&x}, [gradients](const Tensor&) { return gradients; });
  };
  const Tensor one = Tensor::full({2}, 1);
  EXPECT_THAT(error_of([&] { backward(op({Tensor({3})}), one); }), HasSubstr("odd: "));
  EXPECT_THAT(error_of([&] { backward(op({Tensor({2}, DType::f64)}), one); }), HasSubstr("f64"));
  EXPECT_THAT(error_of([&] { backward(op({}), one); }), HasSubstr("odd: "));
  EXPECT_THAT(error_of([&] { backward(op({one, one}), one); }), HasSubstr("odd: "));
  EXPECT_FALSE(x.grad().defined());
}

TEST(Refused, RequiresGradWhereThereCanBeNone) {
  Tensor ids = Tensor::of<int64_t>({1, 2}, {2});
  EXPECT_THAT(error_of([&] { ids.requires_grad(true); }), HasSubstr("i64"));
  const Tensor x = leaf({1});
  Tensor y = x * 2;
  EXPECT_THAT(error_of([&] { y.requires_grad(false); }), HasSubstr("affine"));
}

TEST(Closure, MayReturnNoGradient) {
  const Tensor x = leaf({1}), y = leaf({2});
  int calls = 0;
  Tensor hooked = y;
  hooked.on_grad_ready([&](const Tensor&) { ++calls; });
  const Tensor z = record("half", x.clone(), {&x, &y}, [](const Tensor& dy) -> Tensors {
    return {dy, Tensor()};
  });
  backward(z);
  EXPECT_THAT(grad(x), ElementsAre(1));
  EXPECT_FALSE(y.grad().defined());
  EXPECT_EQ(calls, 0) << "no gradient is ready";
}

// --- memory ---------------------------------------------------------------------------------

int64_t live_bytes() { return memory_stats({}).live; }

TEST(Memory, DroppedGraphsAreFreed) {
  const int64_t before = live_bytes();
  {
    const Tensor x = leaf({1, 2, 3});
    Tensor y = nn::softmax(x);
    y = nn::tanh(y * y) + nn::sigmoid(y);
    y = {};  // never differentiated
    EXPECT_EQ(live_bytes(), before + 3 * 4) << "only the leaf is left";
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(Memory, SavedTensorsGoAsSoonAsTheyAreSpent) {
  const Tensor x = Tensor::full({1000}, 0.5).requires_grad(true);
  const int64_t before = live_bytes();
  const Tensor loss = nn::sum(nn::tanh(nn::sigmoid(nn::exp(x))));
  EXPECT_GE(live_bytes() - before, 3 * 4000) << "results saved for the backward pass";
  backward(loss);
  EXPECT_EQ(live_bytes() - before, 4000 + 4) << "the gradient and the loss, which is still held";
}

TEST(Memory, FailedBackwardLeaksNothing) {
  const int64_t before = live_bytes();
  {
    const Tensor x = leaf({1, 2});
    const Tensor bad = record("bad", (x * 2).detach(), {&x}, [](const Tensor&) -> Tensors {
      fail(ErrorKind::internal, {"bad: on purpose"});
    });
    const Tensor loss = nn::sum(bad * x);
    EXPECT_EQ(error_of([&] { backward(loss); }), "bad: on purpose");
  }
  EXPECT_EQ(live_bytes(), before);
}

constexpr int kLong = 200000;

TEST(LongChain, DroppedWithoutOverflowOrLeak) {
  const int64_t before = live_bytes();
  {
    const Tensor x = leaf({1});
    Tensor y = x;
    for (int i = 0; i < kLong; ++i) y = y * x;  // saves both operands
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(LongChain, DifferentiatedWithoutOverflowOrLeak) {
  const int64_t before = live_bytes();
  {
    const Tensor x = leaf({1});
    Tensor y = x;
    for (int i = 0; i < kLong; ++i) y = y + x;
    backward(y);
    EXPECT_THAT(grad(x), ElementsAre(kLong + 1));
    y = {};
    EXPECT_EQ(live_bytes(), before + 2 * 4) << "x and its gradient";
  }
  EXPECT_EQ(live_bytes(), before);
}

TEST(LongChain, OfResultsThatAreStillHeld) {
  std::vector<Tensor> held{leaf({1})};
  for (int i = 0; i < kLong; ++i) held.push_back(nn::relu(held.back()));
  backward(held.back());
  EXPECT_THAT(grad(held.front()), ElementsAre(1));
}

// --- threads --------------------------------------------------------------------------------

TEST(Threads, DifferentiateGraphsOfTheirOwn) {
  std::vector<std::vector<float>> results(4);
  std::vector<std::thread> threads;
  for (size_t t = 0; t < results.size(); ++t)
    threads.emplace_back([&results, t] {
      const Tensor x = leaf({static_cast<float>(t + 1)});
      for (int i = 0; i < 100; ++i) backward(nn::sum(x * x));
      results[t] = grad(x);
    });
  for (std::thread& thread : threads) thread.join();
  for (size_t t = 0; t < results.size(); ++t)
    EXPECT_THAT(results[t], ElementsAre(200 * static_cast<float>(t + 1)));
}

TEST(Threads, BackwardMayRunOnAnotherThread) {
  const Tensor x = leaf({3});
  const Tensor loss = nn::sum(x * x);
  std::thread([&] { backward(loss); }).join();
  EXPECT_THAT(grad(x), ElementsAre(6));
}

}  // namespace
}  // namespace pinion
