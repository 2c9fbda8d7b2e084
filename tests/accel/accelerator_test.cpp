// SPDX-License-Identifier: Apache-2.0
// Accelerator beside the training step: collectives, shares, turns, triggers, loaders, the gradient
// scaler, schedules, settings. What Accelerate's own tests hold, and where it is wrong.
#include <gmock/gmock.h>

#include <cmath>

#include "accelerator_testing.h"
#include "pinion/optim/schedule.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/fs.h"
#include "pinion/tests/support/fs_testing.h"

namespace pinion::accel {
namespace {

using dist::ProcessGroup;
using testing::ElementsAre;
using testing::HasSubstr;
using Ids = std::vector<int64_t>;

template <class F>
void with_accelerator(int ranks, AcceleratorOptions options, F&& body) {
  dist::run_local(ranks, [&](ProcessGroup& group) {
    AcceleratorOptions mine = options;
    mine.group = &group;
    Accelerator accelerator(mine);
    body(accelerator);
  });
}

// Labels 0 … n-1, which say which samples arrived.
TensorDataset numbered(int64_t n) {
  std::vector<float> x(static_cast<size_t>(n));
  Ids y(static_cast<size_t>(n));
  for (size_t i = 0; i < y.size(); ++i)
    y[i] = static_cast<int64_t>(i), x[i] = static_cast<float>(i);
  return {Tensor::of(x, {n, 1}), Tensor::of(y, {n})};
}

TEST(Accelerator, KnowsItsPlace) {
  with_accelerator(3, {}, [](Accelerator& a) {
    EXPECT_EQ(a.num_processes(), 3);
    EXPECT_EQ(a.is_main_process(), a.process_index() == 0);
    EXPECT_EQ(a.is_last_process(), a.process_index() == 2);
    EXPECT_EQ(a.device(), Device{});
    std::vector<int> ran;
    a.on_main_process([&] { ran.push_back(0); });
    a.on_local_main_process([&] { ran.push_back(0); });
    a.on_process(1, [&] { ran.push_back(1); });
    a.on_local_process(1, [&] { ran.push_back(1); });
    a.on_last_process([&] { ran.push_back(2); });
    const int me = a.process_index();
    EXPECT_EQ(ran, me == 2 ? std::vector<int>{2} : (std::vector<int>{me, me}));
  });
}

TEST(Accelerator, GathersAndReduces) {
  with_accelerator(2, {}, [](Accelerator& a) {
    const float r = static_cast<float>(a.process_index());
    EXPECT_THAT(a.gather(Tensor::full({}, r + 1)).values<float>(), ElementsAre(1, 2));
    const Tensor rows = a.gather(Tensor::full({1, 2}, r, DType::i64));
    EXPECT_EQ(rows.shape(), (Shape{2, 2}));
    EXPECT_THAT(rows.values<int64_t>(), ElementsAre(0, 0, 1, 1));
    const Tensor x = Tensor::of<float>({r, 2 * r + 1}, {2});
    EXPECT_THAT(a.reduce(x).values<float>(), ElementsAre(1, 4));
    EXPECT_THAT(a.reduce(x, dist::ReduceOp::mean).values<float>(), ElementsAre(0.5, 2));
    EXPECT_THAT(a.reduce(x, dist::ReduceOp::max).values<float>(), ElementsAre(1, 3));
    EXPECT_THAT(a.reduce(x, dist::ReduceOp::sum, 0.5).values<float>(), ElementsAre(0.5, 2));
    EXPECT_THAT(x.values<float>(), ElementsAre(r, 2 * r + 1));  // as it was
    EXPECT_THAT(a.gather_object(r == 0 ? "" : "one"), ElementsAre("", "one"));
  });
  with_accelerator(1, {}, [](Accelerator& a) {
    EXPECT_EQ(a.gather(Tensor::full({}, 3)).shape(), Shape{1});
    EXPECT_THAT(
        error_of([&] { a.reduce(Tensor::zeros({1}, DType::i64), dist::ReduceOp::sum, 2); }).what(),
        HasSubstr("a floating tensor to scale"));
  });
}

TEST(Accelerator, PadsToTheLongest) {
  with_accelerator(2, {}, [](Accelerator& a) {
    const int64_t n = a.process_index() + 1;
    const Tensor x = Tensor::full({1, n}, 7, DType::i64);
    EXPECT_THAT(a.pad_across_processes(x, {.dim = 1, .value = -1}).values<int64_t>(),
                n == 1 ? ElementsAre(7, -1) : ElementsAre(7, 7));
    EXPECT_THAT(a.pad_across_processes(x, {.dim = 1, .first = true}).values<int64_t>(),
                n == 1 ? ElementsAre(0, 7) : ElementsAre(7, 7));
    EXPECT_EQ(a.gather(a.pad_across_processes(x, {.dim = 1})).shape(), (Shape{2, 2}));
  });
}

TEST(Accelerator, SplitsListsAndTensors) {
  struct Case {
    int ranks, rank;
    bool pad;
    std::vector<int> wanted;
  };
  const Case cases[] = {{2, 0, false, {0, 1, 2}}, {2, 1, false, {3, 4}}, {2, 1, true, {3, 4, 4}},
                        {4, 0, false, {0, 1}},    {4, 3, false, {4}},    {4, 3, true, {4, 4}}};
  for (const Case& c : cases)
    with_accelerator(c.ranks, {}, [&](Accelerator& a) {
      if (a.process_index() != c.rank) return;
      EXPECT_EQ(a.split_between_processes(std::vector<int>{0, 1, 2, 3, 4}, c.pad), c.wanted);
      const Tensor x = Tensor::of<int32_t>({0, 1, 2, 3, 4}, {5, 1});
      const auto got = a.split_between_processes(x, c.pad).values<int32_t>();
      EXPECT_EQ(std::vector<int>(got.begin(), got.end()), c.wanted);
    });
  with_accelerator(3, {}, [](Accelerator& a) {  // fewer than ranks
    const auto got = a.split_between_processes(std::vector<std::string>{"x"}, true);
    EXPECT_THAT(got, ElementsAre("x"));
    EXPECT_EQ(a.split_between_processes(std::vector<std::string>{"x"}).size(),
              a.is_main_process() ? 1u : 0u);
    EXPECT_EQ(a.split_between_processes(Tensor::zeros({17})).size(0), a.is_last_process() ? 5 : 6);
  });
}

TEST(Accelerator, LetsTheMainProcessGoFirst) {
  std::atomic<int> order{0};
  with_accelerator(3, {}, [&](Accelerator& a) {
    const int place = a.main_process_first([&] { return order++; });
    EXPECT_EQ(place == 0, a.is_main_process());
    a.local_main_process_first([&] { ++order; });
  });
  EXPECT_EQ(order, 6);
}

TEST(Accelerator, TriggersReachEveryRankOnce) {
  with_accelerator(3, {}, [](Accelerator& a) {
    EXPECT_FALSE(a.check_trigger());
    if (a.process_index() == 1) a.set_trigger();
    EXPECT_TRUE(a.check_trigger());
    EXPECT_FALSE(a.check_trigger());
  });
}

TEST(Accelerator, GathersForMetricsEverySampleOnce) {
  for (const int ranks : {1, 2, 4}) {
    for (const int64_t n : {3, 10, 99, 512}) {
      for (const bool even : {true, false}) {
        with_accelerator(ranks, {.even_batches = even}, [&](Accelerator& a) {
          DataLoader data(numbered(n), {.batch_size = 4, .shuffle = n > 10, .seed = 2});
          DataLoader whole(numbered(n), {.batch_size = 4, .shuffle = n > 10, .seed = 2});
          auto loader = a.prepare(data);
          Ids got, wanted;
          for (auto& [x, y] : loader) {
            const auto [labels, pairs] = a.gather_for_metrics(
                y, nn::concat({x.alias({x.size(0)}), x.alias({x.size(0)})}, 0));
            const Ids some = labels.values<int64_t>();
            got.insert(got.end(), some.begin(), some.end());
            EXPECT_EQ(pairs.size(0), 2 * labels.size(0));
          }
          for (auto& [x, y] : whole)
            for (const int64_t i : y.values<int64_t>()) wanted.push_back(i);
          EXPECT_EQ(got, wanted);
        });
      }
    }
  }
}

TEST(Accelerator, GathersForMetricsInsideALoopOnly) {
  with_accelerator(1, {}, [](Accelerator& a) {
    DataLoader data(numbered(5), {.batch_size = 4});
    auto loader = a.prepare(data);
    EXPECT_THAT(error_of([&] { a.gather_for_metrics(Tensor::zeros({4})); }).what(),
                HasSubstr("inside a loop over a prepared loader"));
    for ([[maybe_unused]] auto& batch : loader) {
      EXPECT_THAT(error_of([&] { a.gather_for_metrics(Tensor::zeros({3})); }).what(),
                  HasSubstr("each of the 4 samples of this batch, got [3]"));
      break;
    }
    EXPECT_THROW(a.gather_for_metrics(Tensor::zeros({4})), Error);  // the loop was left
  });
}

TEST(Accelerator, KnowsTheInnermostLoop) {
  with_accelerator(2, {.gradient_accumulation_steps = 3}, [](Accelerator& a) {
    DataLoader outer_data(numbered(16), {.batch_size = 2}),
        inner_data(numbered(6), {.batch_size = 1});
    auto [outer, inner] = a.prepare(outer_data, inner_data);
    std::vector<bool> sync;
    int64_t evaluated = 0;
    for ([[maybe_unused]] auto& batch : outer) {
      const auto micro_batch = a.accumulate();
      sync.push_back(a.sync_gradients());
      for (auto& [x, y] : inner) evaluated += a.gather_for_metrics(y).size(0);
      for ([[maybe_unused]] auto& left : inner) break;
      (*inner).seek(0);
      EXPECT_EQ(a.end_of_dataloader(), sync.size() == 4);
    }
    EXPECT_THAT(sync, ElementsAre(false, false, true, true));
    EXPECT_EQ(evaluated, 4 * 6);
  });
}

TEST(Accelerator, SkipsTheFirstBatchesOnce) {
  with_accelerator(2, {}, [](Accelerator& a) {
    DataLoader data(numbered(16), {.batch_size = 2});
    auto loader = a.prepare(data);
    Ids seen;
    for (int epoch = 0; epoch < 2; ++epoch)
      for (auto& [x, y] : epoch == 0 ? a.skip_first_batches(loader, 3) : loader)
        for (const int64_t i : a.gather_for_metrics(y).values<int64_t>()) seen.push_back(i);
    EXPECT_THAT(Ids(seen.begin(), seen.begin() + 6), ElementsAre(12, 13, 14, 15, 0, 1));
    EXPECT_EQ(seen.size(), 4u + 16u);
    EXPECT_EQ(loader->state().epoch, 2);
  });
}

TEST(Accelerator, JoinsUnevenInputsForAWhile) {
  with_accelerator(2, {}, [](Accelerator& a) {
    DataLoader data(numbered(3), {.batch_size = 1});
    auto loader = a.prepare(data);
    const auto seen = [&] {
      int64_t real = 0;
      for ([[maybe_unused]] auto& batch : loader) real += loader.real_rows();
      return real;
    };
    EXPECT_EQ(loader.batches(), 2);
    {
      const auto join = a.join_uneven_inputs();
      EXPECT_FALSE(a.even_batches());
      EXPECT_EQ(seen(), a.is_main_process() ? 2 : 1);
    }
    EXPECT_TRUE(a.even_batches());
  });
}

TEST(Accelerator, RefusesRanksWithDifferentData) {
  const Error e = error_of([] {
    with_accelerator(2, {}, [](Accelerator& a) {
      DataLoader data(numbered(10 + a.process_index()), {.batch_size = 2});
      a.prepare(data);
    });
  });
  EXPECT_EQ(e.kind(), ErrorKind::desync);
  EXPECT_THAT(e.what(), HasSubstr("10 samples in batches of 2, seed 0, on rank 0 and 11"));
}

TEST(Accelerator, PreparesInAnyOrderAndOnce) {
  with_accelerator(2, {}, [](Accelerator& a) {
    Line line;
    line.a = Tensor::full({1, 1}, a.process_index()).requires_grad(true);
    optim::Sgd sgd(line.named_parameters());
    optim::Scheduler constant(sgd, optim::constant_lr());
    DataLoader data(numbered(4), {.batch_size = 2});
    auto [loader, schedule, optimizer, model] = a.prepare(data, constant, sgd, line);
    EXPECT_EQ(line.a.item(), 0);  // rank 0's
    auto [again, same] = a.prepare(model, sgd);
    EXPECT_EQ(&*again, &line);
    EXPECT_EQ(&*same, &sgd);
    EXPECT_EQ(&a.unwrap_model(model), &line);
    EXPECT_EQ(loader.batches(), 1);
    auto one = a.prepare(line);  // a single object comes back as one handle
    EXPECT_EQ(one->a.item(), 0);
    a.free_memory();
    EXPECT_TRUE(a.sync_gradients());
  });
}

TEST(Accelerator, SharesItsRanksButNotOtherSettings) {
  with_accelerator(2, {.mixed_precision = nn::Precision::bf16}, [](Accelerator& a) {
    AcceleratorOptions options{.group = &a.group()};
    EXPECT_EQ(Accelerator(options).mixed_precision(), nn::Precision::bf16);
    options.mixed_precision = nn::Precision::fp16;
    const Error e = error_of([&] { const Accelerator second(options); });
    EXPECT_EQ(e.kind(), ErrorKind::config);
    EXPECT_THAT(e.what(), HasSubstr("the one that is there already, bf16, got fp16"));
  });
}

// Accelerate's vectors for LambdaLR(updates + 1): it counts each rank's step, unless batches are
// split; Pinion counts optimizer updates unless asked for the other.
TEST(Accelerator, StepsSchedulesByUpdates) {
  struct Case {
    SchedulerCompat compat;
    bool split, with_optimizer;
    std::vector<double> rates;
  };
  const Case cases[] = {{SchedulerCompat::updates, false, true, {2, 3, 4}},
                        {SchedulerCompat::accelerate, false, true, {3, 5, 7}},
                        {SchedulerCompat::accelerate, true, true, {2, 3, 4}},
                        {SchedulerCompat::updates, false, false, {3, 5, 7}}};
  for (const Case& c : cases)
    with_accelerator(2,
                     {.gradient_accumulation_steps = 2,
                      .split_batches = c.split,
                      .step_scheduler_with_optimizer = c.with_optimizer,
                      .scheduler_compat = c.compat},
                     [&](Accelerator& a) {
                       Line line;
                       optim::Sgd sgd(line.named_parameters(), {.lr = 1});
                       optim::Scheduler lambda(sgd, optim::lambda_lr([](int64_t u) {
                                                 return static_cast<double>(u + 1);
                                               }));
                       auto [model, optimizer, schedule] = a.prepare(line, sgd, lambda);
                       std::vector<double> rates;
                       for (int i = 0; i < 6; ++i) {
                         const auto micro_batch = a.accumulate(model);
                         a.backward(nn::sum(model(Tensor::zeros({1, 1}))));
                         optimizer.step();
                         schedule.step();
                         optimizer.zero_grad();
                         if (a.sync_gradients()) rates.push_back(sgd.lr());
                       }
                       EXPECT_EQ(rates, c.rates);
                     });
}

// Infinite gradients on the second and third step, on one rank of two.
TEST(Accelerator, SkipsStepsThatOverflow) {
  with_accelerator(2, {.mixed_precision = nn::Precision::fp16, .scaler = {.init_scale = 1024}},
                   [](Accelerator& a) {
                     Line line;
                     optim::Sgd sgd(line.named_parameters(), {.lr = 1});
                     optim::Scheduler lambda(sgd, optim::lambda_lr([](int64_t u) {
                                               return static_cast<double>(u + 1);
                                             }));
                     auto [model, optimizer, schedule] = a.prepare(line, sgd, lambda);
                     std::vector<bool> skipped;
                     std::vector<double> scales, norms;
                     for (int i = 0; i < 4; ++i) {
                       const bool bad = a.process_index() == 1 && (i == 1 || i == 2);
                       const double x = bad ? std::numeric_limits<double>::infinity() : 0;
                       a.backward(nn::sum(line.a * Tensor::full({1, 1}, x)) +
                                  nn::sum(model(Tensor::zeros({1, 1}))));
                       norms.push_back(a.clip_grad_norm_(model->parameters(), 10));
                       optimizer.step();
                       schedule.step();
                       optimizer.zero_grad();
                       skipped.push_back(a.optimizer_step_was_skipped());
                       EXPECT_EQ(skipped.back(), optimizer.step_was_skipped());
                       scales.push_back(a.scaler().scale());
                     }
                     EXPECT_THAT(skipped, ElementsAre(false, true, true, false));
                     EXPECT_THAT(scales, ElementsAre(1024, 512, 256, 256));
                     EXPECT_EQ(norms[0], 1);  // unscaled
                     EXPECT_TRUE(std::isnan(norms[1]));
                     EXPECT_EQ(lambda.updates(), 2);
                     EXPECT_EQ(line.b.item(), -3);  // 1 at rate 1, 1 at rate 2
                   });
}

TEST(Accelerator, ClipsOnlyWhereAWindowEnds) {
  with_accelerator(1, {.mixed_precision = nn::Precision::fp16, .gradient_accumulation_steps = 2},
                   [](Accelerator& a) {
                     Line line, other;
                     optim::Sgd sgd(line.named_parameters(), {.lr = 1});
                     optim::Sgd second(other.named_parameters(), {.lr = 1});
                     auto [model, more, optimizer, last] = a.prepare(line, other, sgd, second);
                     std::vector<Tensor> all = line.parameters();
                     for (const Tensor& t : other.parameters()) all.push_back(t);
                     for (int i = 0; i < 2; ++i) {
                       const auto micro_batch = a.accumulate(model);
                       const Tensor x = Tensor::full({1, 1}, 1);
                       a.backward(nn::sum(model(x)) + nn::sum(more(x)));
                       EXPECT_EQ(a.clip_grad_norm_(all, 1), i == 0 ? 0 : 2);  // of four ones
                       a.clip_grad_value_(optimizer, 0.25);
                       optimizer.step();
                       last.step();
                     }
                     EXPECT_EQ(line.b.item(), -0.25);
                     EXPECT_NEAR(other.b.item(), -0.5, 1e-6);
                     EXPECT_THAT(error_of([&] { a.clip_grad_norm_({line.a}, 1); }).what(),
                                 HasSubstr("all parameters of an optimizer, got 1 of 2"));
                   });
}

TEST(Accelerator, ModelsComputeInThePrecisionAndReturnF32) {
  with_accelerator(1, {.mixed_precision = nn::Precision::bf16}, [](Accelerator& a) {
    Line line;
    auto model = a.prepare(line);
    const Tensor x = Tensor::full({1, 1}, 1);
    EXPECT_EQ(model(x).dtype(), DType::f32);
    EXPECT_EQ(line(x).dtype(), DType::f32);
    const auto autocast = a.autocast();
    EXPECT_EQ(line(x).dtype(), DType::bf16);
  });
}

TEST(Accelerator, FindsTheLargestBatchThatFits) {
  Ids tried;
  EXPECT_EQ(find_executable_batch_size(16,
                                       [&](int64_t size) {
                                         tried.push_back(size);
                                         PINION_REQUIRE(out_of_memory, size <= 4, "too large");
                                         return size;
                                       }),
            4);
  EXPECT_THAT(tried, ElementsAre(16, 14, 12, 10, 9, 8, 7, 6, 5, 4));
  const auto never = [](int64_t) { throw std::bad_alloc(); };
  EXPECT_EQ(error_of([&] { find_executable_batch_size(3, never); }).kind(),
            ErrorKind::out_of_memory);
  int calls = 0;
  const auto wrong = [&](int64_t) { ++calls, fail(ErrorKind::data, {"out of memory, it says"}); };
  EXPECT_EQ(error_of([&] { find_executable_batch_size(8, wrong); }).kind(), ErrorKind::data);
  EXPECT_EQ(calls, 1);
}

TEST(Accelerator, TracksOnTheMainProcess) {
  const TempDir dir;
  with_accelerator(2,
                   {.project_dir = dir.path(),
                    .log_with = {TrackerKind::jsonl, TrackerKind::csv, TrackerKind::tensorboard}},
                   [](Accelerator& a) {
                     const Field config[] = {{"lr", 0.1}};
                     a.init_trackers("first", config);
                     a.log({{"loss", 0.5}}, 1);
                     a.log({{"loss", 0.25}}, 2);
                     EXPECT_EQ(a.get_tracker(TrackerKind::csv) != nullptr, a.is_main_process());
                     a.end_training();
                   });
  const std::string run = dir.path() + "/first";
  EXPECT_EQ(read_file(run + "/config.json", 100), "{\"lr\":0.1}\n");
  EXPECT_EQ(read_file(run + "/metrics.jsonl", 100),
            "{\"step\":1,\"loss\":0.5}\n{\"step\":2,\"loss\":0.25}\n");
  EXPECT_THAT(read_file(run + "/metrics.csv", 100), HasSubstr("2,0.25"));
  std::vector<std::string> events;
  for (const std::string& name : list_dir(run))
    if (name.starts_with("events.out.tfevents.")) events.push_back(name);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_THAT(read_file(run + "/" + events[0], 1000), HasSubstr("loss"));
}

TEST(Accelerator, ProfilesIntoAFileOfEachRank) {
  const TempDir dir;
  // One after the other: a process records once at a time, and these ranks are threads of one.
  with_accelerator(2, {.project_dir = dir.path()}, [](Accelerator& a) {
    for (int rank = 0; rank < 2; ++rank) {
      a.on_process(rank, [&] {
        const Profile profile = a.profile();
        const ProfileSpan span("forward");
        const Tensor x = Tensor::zeros({2}).requires_grad(true);
        pinion::backward(nn::sum(x));
      });
      a.wait_for_everyone();
    }
    EXPECT_THAT(error_of([&] { (void)Accelerator({.group = &a.group()}).profile(); }).what(),
                HasSubstr("profile: expected a directory"));
  });
  for (int rank = 0; rank < 2; ++rank) {
    const std::string trace =
        read_file(dir.path() + "/profile_" + std::to_string(rank) + ".json", 10000);
    EXPECT_THAT(trace, HasSubstr("\"name\":\"sum\""));
    EXPECT_THAT(trace, HasSubstr("\"rank " + std::to_string(rank)));
  }
}

}  // namespace
}  // namespace pinion::accel
