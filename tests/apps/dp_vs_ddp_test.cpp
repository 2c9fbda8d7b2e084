// SPDX-License-Identifier: Apache-2.0
// bench/dp_vs_ddp: gates run first and refuse what does not train alike, one small cell gives all
// figures, and the arithmetic around them is right.
#include <gmock/gmock.h>
#include <unistd.h>

#include <csignal>
#include <limits>
#include <nlohmann/json.hpp>

#include "pinion/accel/track/html_report.h"
#include "pinion/bench/dp_vs_ddp/budget.h"
#include "pinion/bench/dp_vs_ddp/pages.h"
#include "pinion/tests/dist/dist_testing.h"

namespace pinion::bench {
namespace {

using dist::kind_of_error;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr int kUsage = static_cast<int>(ErrorKind::usage);
constexpr int kDesync = static_cast<int>(ErrorKind::desync);

// The toy cell once, as short as can be. Every process is forked, so the figures are made once.
const Report& toy_report() {
  static const Report report = [] {
    MatrixOptions o;
    o.repetitions = 2;
    o.timing = {.warm_up = 1, .blocks = 3};
    o.quick = true;
    return run_matrix(o, [](const std::string&) {});
  }();
  return report;
}

TEST(DpVsDdp, EverySchemeTrainsAsOneDeviceDoes) {
  const Report& report = toy_report();
  // Four gates for each scheme but one-device, the reference, and one-share, which sees less.
  EXPECT_EQ(report.gates.size(), (schemes().size() - 2) * 4);
  for (const Gate& g : report.gates)
    EXPECT_TRUE(g.passed()) << g.scheme << " " << g.what << " " << g.got;
}

TEST(DpVsDdp, RepetitionsFitIntoTheMinutes) {
  EXPECT_EQ(fitting(5, 30, 60, 10), 5);   // 150 s of 540
  EXPECT_EQ(fitting(5, 170, 60, 10), 3);  // 510 s of 540
  EXPECT_EQ(fitting(5, 400, 60, 10), 2);  // none would fit twice
  EXPECT_EQ(fitting(5, 400, 60, 0), 5);
  EXPECT_EQ(fitting(1, 4000, 60, 1), 1);
  RunReport gate;
  gate.seconds = 3;
  gate.processes.resize(1);
  gate.processes[0].phases = {.forward = 0.5, .backward = 1, .exchange = 0.25, .update = 0.25};
  const Cell cell{.name = "", .what = "", .widths = {}, .steps_per_block = 2};
  // A second to set up, 20 steps in 2 seconds; 10 + 2 x 30 are timed.
  EXPECT_DOUBLE_EQ(seconds_by_gate(gate, cell, {.warm_up = 10, .blocks = 30}), 1 + 7);
  EXPECT_EQ(clock_text(64.2), "1:05");
  std::string said;
  Progress progress([&](const std::string& what) { said = what; }, 90);
  progress.begin("cell");
  EXPECT_EQ(said, "cell, about 1:30 left");
  progress.done(90);
  progress.begin("end");
  EXPECT_EQ(said, "end, about 0:00 left");
  EXPECT_GE(toy_report().repetitions, 2);
}

TEST(DpVsDdp, JsonHoldsGatesRowsAndModel) {
  const nlohmann::json all = nlohmann::json::parse(json_of(toy_report()));
  for (const char* key : {"machine", "gates", "model_constants", "rows", "repetitions", "quick"})
    EXPECT_TRUE(all.contains(key)) << key;
  size_t measured = 0, modelled = 0;
  for (const auto& row : all["rows"]) {
    EXPECT_GT(row["samples_per_second"].get<double>(), 0) << row.dump();
    if (row["kind"] == "model") {
      ++modelled;
      continue;
    }
    ++measured;
    for (const char* key :
         {"samples_per_second_95", "step_seconds", "cpu_seconds_per_sample", "device0_bytes",
          "other_device_bytes", "peak_bytes_by_tag", "state_bytes_by_algebra", "pss_bytes",
          "high_water_bytes", "sent_bytes_per_step", "foreign_cpu_share", "dirty"})
      EXPECT_TRUE(row.contains(key)) << key;
    EXPECT_GT(row["device0_bytes"].get<double>(), 0) << row.dump();
    EXPECT_GT(row["pss_bytes"].get<double>(), 0) << row.dump();
    EXPECT_LE(row["samples_per_second_95"][0], row["samples_per_second"]);
    EXPECT_LE(row["samples_per_second"], row["samples_per_second_95"][1]);
  }
  EXPECT_EQ(measured, schemes().size());
  EXPECT_EQ(modelled, (schemes().size() - 3) * 3);  // 2 devices to check the model, 4 and 8
}

TEST(DpVsDdp, MemoryFollowsTheAlgebra) {
  // Padding of 418 parameters adds up to 10 %, with ZeRO's pieces to 25 %.
  const auto over = [](Scheme scheme) {
    const Row* r = find_row(toy_report(), "toy-mlp", scheme, 2);
    return (r->tags[static_cast<size_t>(MemoryTag::parameters)] +
            r->tags[static_cast<size_t>(MemoryTag::gradients)] +
            r->tags[static_cast<size_t>(MemoryTag::optimizer)]) /
           r->state_by_algebra;
  };
  EXPECT_NEAR(over(Scheme::one), 1.05, 0.05);
  EXPECT_NEAR(over(Scheme::ddp), 1.05, 0.05);
  EXPECT_NEAR(over(Scheme::zero1), 1.13, 0.12);
}

TEST(DpVsDdp, PagesShowWhatIsModelledAndWhatGivesWhat) {
  const std::string text = text_of(toy_report()), html = html_of(toy_report());
  for (const std::string& page : {text, html})
    EXPECT_THAT(page, AllOf(HasSubstr("What ZeRO gives: memory"), HasSubstr("What DDP gives"),
                            HasSubstr("--quick"), HasSubstr("dp-pytorch-like")));
  EXPECT_THAT(html, AllOf(HasSubstr("<svg"), HasSubstr("samples/s (model)")));
}

Training a_training() { return {"ddp", {1, 2, 3, 4}, {0.7, 0.6, 0.5}, 99, true}; }

TEST(DpVsDdpGates, EachKindOfDisagreementRefusesFigures) {
  const Training good = a_training();
  EXPECT_NO_THROW(require_gates(compare("toy-mlp", good, good, 1e-6)));
  const auto refusal = [&](const char* what, auto breaks) {
    Training bad = a_training();
    breaks(bad);
    std::string text;
    const auto gates = compare("toy-mlp", good, bad, 1e-6);
    EXPECT_EQ(kind_of_error([&] { require_gates(gates); }, &text), kDesync) << what;
    EXPECT_THAT(text, AllOf(HasSubstr(what), HasSubstr("ddp"), HasSubstr("no figures")));
  };
  refusal("weights", [](Training& t) { t.weights[2] *= 1.00001F; });
  refusal("weights", [](Training& t) { t.weights[0] = std::numeric_limits<float>::quiet_NaN(); });
  refusal("weights", [](Training& t) { t.weights.pop_back(); });
  refusal("loss", [](Training& t) { t.losses[1] *= 1.00001; });
  refusal("loss", [](Training& t) { t.losses[0] = std::numeric_limits<double>::quiet_NaN(); });
  refusal("samples", [](Training& t) { ++t.seen; });
  refusal("ranks", [](Training& t) { t.ranks_equal = false; });
  EXPECT_EQ(kind_of_error([] { require_gates({}); }), kDesync);
}

TEST(DpVsDdpGates, DistancesAreRelative) {
  const Training good = a_training();
  Training close = good;
  close.weights[3] *= 1 + 4e-7F;
  EXPECT_NO_THROW(require_gates(compare("toy-mlp", good, close, 1e-6)));
}

TEST(DpVsDdp, RefusesWhatItDoesNotKnow) {
  const auto refusal = [](auto change) {
    MatrixOptions o;
    change(o);
    std::string text;
    EXPECT_EQ(kind_of_error([&] { run_matrix(o, [](const std::string&) {}); }, &text), kUsage);
    return text;
  };
  EXPECT_THAT(refusal([](MatrixOptions& o) { o.cells = {"tiny"}; }),
              AllOf(HasSubstr("--cells"), HasSubstr("wide-mlp"), HasSubstr("tiny")));
  EXPECT_THAT(refusal([](MatrixOptions& o) { o.schemes = {"dpp"}; }), HasSubstr("--schemes"));
  EXPECT_THAT(refusal([](MatrixOptions& o) { o.ranks = {1}; }), HasSubstr("--ranks"));
  EXPECT_THAT(refusal([](MatrixOptions& o) { o.repetitions = 0; }), HasSubstr("--repetitions"));
}

TEST(DpVsDdp, ErrorsOfProcessesArrive) {
  std::string text;
  const auto body = [](int i) {
    if (i == 0) fail(ErrorKind::peer_lost, {"rank 1 is gone"});
    fail(ErrorKind::non_finite, {"loss: expected a number, got nan"});
  };
  EXPECT_EQ(kind_of_error([&] { run_processes(2, body); }, &text),
            static_cast<int>(ErrorKind::non_finite));
  EXPECT_THAT(text, HasSubstr("got nan"));
  EXPECT_EQ(kind_of_error([] {
              run_processes(2, [](int i) {
                if (i == 1) raise(SIGKILL);
              });
            }),
            static_cast<int>(ErrorKind::peer_lost));
}

TEST(DpVsDdp, MediansAndTheirIntervals) {
  EXPECT_EQ(median({3, 1, 2}), 2);
  EXPECT_EQ(median({4, 1, 2, 3}), 2.5);
  const Estimate e = estimate({{1, 1, 9}, {2, 2, 2}, {3, 3, 3}});
  EXPECT_EQ(e.value, 2);
  EXPECT_LE(e.low, 1.01);
  EXPECT_GE(e.high, 2.99);
  EXPECT_EQ(turn(3, 0), (std::vector<size_t>{0, 1, 2}));
  EXPECT_EQ(turn(3, 1), (std::vector<size_t>{2, 1, 0}));
}

TEST(DpVsDdp, AlgebraOfBytes) {
  const Cell& toy = cell_named("toy-mlp");
  ASSERT_EQ(parameter_count(toy), 418);
  const double g = 4 * 418, logits = 4 * 16 * 2;
  EXPECT_EQ(traffic_of(toy, Scheme::one, 4).total, 0);
  EXPECT_EQ(traffic_of(toy, Scheme::dp_pytorch, 4).busiest, 6 * g + 6 * logits);
  EXPECT_EQ(traffic_of(toy, Scheme::ddp, 4).total, 6 * g);
  EXPECT_EQ(traffic_of(toy, Scheme::ddp, 4).busiest, 3 * g);
  EXPECT_EQ(traffic_of(toy, Scheme::ddp_bf16, 4).total, 3 * g);
  EXPECT_EQ(traffic_of(toy, Scheme::zero3, 4).total, 9 * g);
  EXPECT_EQ(state_bytes(toy, Scheme::zero1, 4), 418 * 10.0);
  EXPECT_EQ(state_bytes(toy, Scheme::zero2, 4), 418 * 7.0 + 4 * 352);
  EXPECT_EQ(state_bytes(toy, Scheme::zero3, 4), 418 * 4.0 + 8 * 352);
  // A link of 1 us a message and 1 GB/s: 2 (N-1) messages, and 2 (N-1)/N bytes a byte.
  Link link;
  link.reduce_small = 2e-6 + static_cast<double>(link.small_bytes) * 1e-9;
  link.reduce_large = 2e-6 + static_cast<double>(link.large_bytes) * 1e-9;
  const ModelConstants k = fit(link, 2, {.forward = 1, .backward = 2, .update = 3});
  EXPECT_NEAR(k.alpha, 1e-6, 1e-9);
  EXPECT_NEAR(k.beta, 1e-9, 1e-12);
  EXPECT_NEAR(modelled_seconds(toy, Scheme::zero1, 4, k), 3 + 0.75 + 6e-6 + 1.5 * g * 1e-9, 1e-8);
}

TEST(HtmlBars, DrawEachBarAndSurviveWhatIsNoNumber) {
  const std::string svg = accel::svg_bars(
      {"a < b", {{"one", 2, 1, 3, false}, {"none", std::numeric_limits<double>::quiet_NaN()}}});
  EXPECT_THAT(svg, AllOf(HasSubstr("a &lt; b"), HasSubstr(">one<"), HasSubstr(">none<"),
                         HasSubstr("width=\"0.0\""), HasSubstr("<path"), Not(HasSubstr("=\"nan"))));
}

}  // namespace
}  // namespace pinion::bench
