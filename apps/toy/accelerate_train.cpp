// SPDX-License-Identifier: Apache-2.0
// accelerate_train: the small classifier of simple_train on any number of ranks. The loop is that
// of one rank; what Accelerator adds to it is marked with "*".
#include <fmt/format.h>

#include <cmath>

#include "pinion/accel/accelerator.h"
#include "pinion/accel/signals.h"
#include "pinion/accel/track/metrics.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/toy/options.h"
#include "pinion/apps/toy/simple_net.h"
#include "pinion/nn/init.h"

namespace pinion::toy {

namespace {

// The figures of an epoch, summed over the batches of this rank.
struct Figures {
  double loss = 0, batches = 0;  // batches in shares: those of all ranks add up to one a step
  accel::Accuracy accuracy;

  void add(const Tensor& logits, const Tensor& labels, double mean_loss, int64_t real,
           double share) {
    loss += share * mean_loss;
    batches += share;
    if (real > 0) accuracy.add(logits.detach().rows(0, real), labels.rows(0, real));
  }

  // Those of all ranks: the mean loss of a step, and the share of samples that were right.
  std::pair<double, double> over_all(accel::Accelerator& accelerator) const {
    const auto sums =
        accelerator
            .reduce(Tensor::of<double>({loss, batches, static_cast<double>(accuracy.correct()),
                                        static_cast<double>(accuracy.total())},
                                       {4})
                        .to(accelerator.device()))  // *
            .to({})
            .values<double>();
    return {sums[0] / sums[1], sums[2] / sums[3]};
  }
};

accel::AcceleratorOptions accelerator_options(const Options& o) {
  return {.mixed_precision = o.asked_precision,
          .gradient_accumulation_steps = o.gradient_accumulation_steps,
          .cpu = o.cpu,
          .device = o.asked_device,
          .project_dir = o.output_dir,
          .log_with = {accel::TrackerKind::jsonl},
          .even_batches = false,  // every sample once an epoch: the figures are exact
          .checkpoints = {.config = kept_settings(o),
                          .allow_world_size_change = o.allow_world_size_change}};
}

// What a checkpoint of an earlier run would be mistaken for.
void check_directory(const Options& o) {
  if (o.resume || o.save_every == 0) return;
  PINION_REQUIRE(
      usage, accel::checkpoint_steps(o.output_dir + "/checkpoints").empty(),
      "--save_every: expected a --output_dir without checkpoints of an earlier run, got ",
      o.output_dir, "; add --resume to go on from the newest");
}

int train(const Options& o) {
  accel::Accelerator accelerator(accelerator_options(o));  // *
  PINION_REQUIRE(usage, !o.asked_precision || *o.asked_precision == accelerator.mixed_precision(),
                 "--mixed_precision: expected what the launcher was told, ",
                 nn::name_of(accelerator.mixed_precision()), ", got ", nn::name_of(o.precision));
  check_directory(o);

  manual_seed(o.seed);
  const accel::TensorDataset data = make_synthetic(o.synthetic);  // the same on every rank
  SimpleNet model(o.synthetic.features, o.hidden, 2);
  model.to(accelerator.device());  // *
  const auto adam = make_optimizer(o, model);
  accel::DataLoader batches(data, {.batch_size = o.batch_size,
                                   .shuffle = true,
                                   .workers = static_cast<int>(o.workers),
                                   .seed = o.seed});
  auto [net, optimizer, loader] = accelerator.prepare(model, *adam, batches);  // *

  accelerator.init_trackers(
      "", {}, o.resume ? accel::TrackerStart::continued : accel::TrackerStart::replace);
  if (o.resume && o.resume_from.empty())
    accelerator.resume_state();  // *
  else if (o.resume)
    accelerator.load_state(o.resume_from);  // *
  std::optional<accel::SignalGuard> signals;
  if (o.save_every > 0) signals.emplace();  // else there is nothing to save before the end
  accelerator.print(
      fmt::format("{} rank{} on {}, {} parameters, mixed_precision {}", accelerator.num_processes(),
                  accelerator.num_processes() == 1 ? "" : "s", accelerator.device().name(),
                  model.parameter_count(), nn::name_of(accelerator.mixed_precision())));

  for (int64_t epoch = loader->state().epoch; epoch < o.epochs; ++epoch) {
    Figures figures;
    for (auto& [x, y] : loader) {
      const auto micro_batch = accelerator.accumulate(net);  // *
      const Tensor logits = net(x);
      const Tensor loss = nn::cross_entropy(logits, y);
      accelerator.backward(loss);  // * instead of backward(loss)
      optimizer.step();
      optimizer.zero_grad();
      figures.add(logits, y, loss.item(), loader.real_rows(), loader.share());
    }
    const auto [loss, accuracy] = figures.over_all(accelerator);
    accelerator.log({{"epoch", epoch + 1}, {"loss", loss}, {"accuracy", accuracy}}, epoch + 1);
    accelerator.print(fmt::format("Epoch {}/{}, Loss: {:.4f}, Accuracy: {:.2f}%", epoch + 1,
                                  o.epochs, loss, 100 * accuracy));
    PINION_REQUIRE(non_finite, std::isfinite(loss), "training: expected a finite loss, got ", loss,
                   " (a smaller --lr may help)");
    if (o.save_every > 0 && (epoch + 1) % o.save_every == 0) accelerator.save_state();  // *
    if (o.save_every > 0) accelerator.save_if_asked();                                  // *
  }

  accelerator.save_model(net, o.output_dir);  // *
  accelerator.end_training();                 // *
  accelerator.print(fmt::format("Saved {0}/model.safetensors and {0}/metrics.jsonl", o.output_dir));
  return 0;
}

}  // namespace
}  // namespace pinion::toy

int main(int argc, char** argv) {
  return pinion::apps::run_program("accelerate_train", [&] {
    const auto options = pinion::toy::parse_accelerate_options(argc, argv);
    return options ? pinion::toy::train(*options) : 0;
  });
}
