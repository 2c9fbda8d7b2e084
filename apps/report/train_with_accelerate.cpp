// SPDX-License-Identifier: Apache-2.0
// train_with_accelerate: trains and evaluates the report generator on any number of ranks.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>

#include "pinion/accel/accelerator.h"
#include "pinion/accel/signals.h"
#include "pinion/accel/track/progress.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/report/attention_picture.h"
#include "pinion/apps/report/examination.h"
#include "pinion/apps/report/memory_advice.h"
#include "pinion/apps/report/options.h"
#include "pinion/apps/report/pretrained.h"
#include "pinion/apps/report/run_page.h"
#include "pinion/dist/parallel/sync_batch_norm.h"
#include "pinion/nn/init.h"
#include "pinion/nn/weights.h"
#include "pinion/optim/adam.h"
#include "pinion/optim/schedule.h"
#include "pinion/runtime/autograd.h"
#include "pinion/runtime/fs.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

using Net = accel::AcceleratedModel<ReportModel>;
using Loader = StudyLoader;

// What a checkpoint keeps beside model, optimizer and loader: the best so far, the epoch's loss so
// far, and the vocabulary, without which the numbers of words mean nothing.
struct RunState final : accel::Checkpointable {
  std::string vocabulary;
  double best = 0;
  double loss_sum = 0, loss_words = 0;  // of this rank, in the epoch that is under way
  std::string sums_of_ranks = "[]";     // these two of every rank, as JSON: see keep_sums()
  int64_t best_epoch = 0, not_improved = 0;

  accel::State state() override {
    accel::State out;
    out.put("vocabulary", vocabulary);
    out.put("best", best);
    out.put("sums_of_ranks", sums_of_ranks);
    out.put("best_epoch", best_epoch);
    out.put("not_improved", not_improved);
    return out;
  }
  void load_state(const accel::State& from) override {
    PINION_REQUIRE(checkpoint, from.text("vocabulary") == vocabulary,
                   "checkpoint: expected the vocabulary of these training reports, got another (",
                   std::count(vocabulary.begin(), vocabulary.end(), '\n'), " words here, ",
                   std::count(from.text("vocabulary").begin(), from.text("vocabulary").end(), '\n'),
                   " there)");
    best = from.real("best");
    sums_of_ranks = from.text("sums_of_ranks");
    best_epoch = from.integer("best_epoch");
    not_improved = from.integer("not_improved");
  }
};

accel::AcceleratorOptions accelerator_options(const Options& o) {
  std::optional<nn::Precision> precision = o.mixed_precision;
  const bool gpu = !o.cpu && o.device != "cpu" && cuda_device_count() > 0;
  if (o.use_amp && !precision) precision = gpu ? nn::Precision::fp16 : nn::Precision::bf16;
  return {.mixed_precision = precision,
          .gradient_accumulation_steps = o.gradient_accumulation_steps,
          .cpu = o.cpu,
          .device = o.device,
          .project_dir = o.save_dir,
          .log_with = {accel::TrackerKind::jsonl},
          .even_batches = false,
          .checkpoints = {.config = o.settings(),
                          .allow_config_change = o.allow_config_change,
                          .allow_world_size_change = o.allow_world_size_change}};
}

std::unique_ptr<optim::Optimizer> make_optimizer(const Options& o, ReportModel& model) {
  const auto make = [&]<class A>(std::type_identity<A>) -> std::unique_ptr<optim::Optimizer> {
    const auto group = [&](const char* name, nn::Module& part, double lr) {
      typename A::Group g{name, part.named_parameters(), {}};
      g.options.lr = lr, g.options.weight_decay = o.weight_decay, g.options.amsgrad = o.amsgrad;
      return g;
    };
    return std::make_unique<A>(
        std::vector{group("visual_extractor", model.visual_extractor, o.lr_ve),
                    group("encoder_decoder", model.encoder_decoder, o.lr_ed)});
  };
  if (o.optim == "AdamW") return make(std::type_identity<optim::AdamW>());
  return make(std::type_identity<optim::Adam>());
}

optim::Schedule make_schedule(const Options& o, int64_t updates_per_epoch) {
  if (o.lr_scheduler == "StepLR") return optim::step_lr(o.step_size * updates_per_epoch, o.gamma);
  const auto total = static_cast<double>(std::max<int64_t>(1, o.epochs * updates_per_epoch));
  return optim::lambda_lr([total](int64_t updates) {
    const auto i = static_cast<double>(updates);
    const double fall = .5 * (1 + std::cos(std::numbers::pi * std::min(1.0, i / total)));
    return std::min(1.0, (i + 1) / (.05 * total)) * std::max(.1, fall);
  });
}

// Weights of a batch's words, zero for rows that only fill it up. At least one is not zero, so that
// the loss is a number; the weight of the batch then says that it does not count.
double weigh_rows(StudyBatch& batch, int64_t real) {
  std::vector<float> weight = batch.weight.values<float>();
  const auto steps = static_cast<size_t>(batch.weight.size(1));
  double words = 0;
  for (size_t i = 0; i < weight.size(); ++i)
    if (i < static_cast<size_t>(real) * steps) words += weight[i];
  if (real < batch.size() && real > 0) {
    std::fill(weight.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(real) * steps),
              weight.end(), 0.0F);
    batch.weight = Tensor::of(weight, batch.weight.shape()).to(batch.ids.device());
  }
  return words;
}

// One run: everything that its parts share.
class Run {
 public:
  explicit Run(const Options& o)
      : o_(o),
        accelerator_(accelerator_options(o)),
        set_(std::make_shared<const StudySet>(usable_studies())),
        tokenizer_(
            std::make_shared<const Tokenizer>(set_->cleaned_reports(Split::train), o.threshold)),
        train_(batches(Split::train)),
        val_(batches(Split::val)),
        test_(batches(Split::test)) {
    PINION_REQUIRE(
        usage,
        o.num_processes.value_or(accelerator_.num_processes()) == accelerator_.num_processes(),
        "--num_processes: expected ", accelerator_.num_processes(),
        ", as many as were started, got ", *o.num_processes,
        " (`pinion launch --num_processes N train_with_accelerate` starts N)");
    for (const std::string& word : tokenizer_->words()) state_.vocabulary += word + "\n";
    PINION_REQUIRE(data, train_.size() > 0, o.ann_path, ": expected studies to train on, got none");
    check_monitor_metric();
    forget_best();
    accelerator_.on_main_process([&] { make_dirs(o.record_dir); });  // rather now than at the end
  }

  int train() {
    manual_seed(o_.seed);
    TransformerOptions transformer = o_.transformer;
    transformer.vocabulary = tokenizer_->vocabulary();
    ReportModel model(o_.visual_extractor, set_->views(), transformer);
    const int64_t width = model.visual_extractor.width();
    PINION_REQUIRE(usage, o_.d_vf.value_or(width) == width, "--d_vf: expected the width of ",
                   o_.visual_extractor, ", ", width, ", got ", *o_.d_vf);
    if (!o_.pretrained_weights.empty())
      load_pretrained(model.visual_extractor, o_.pretrained_weights);
    model.to(accelerator_.device());
    // A rank without studies joins with one. Alone, only what goes with the flag is checked.
    if (o_.sync_bn && (accelerator_.use_distributed() || accelerator_.settings().deterministic))
      dist::convert_sync_batchnorm(model, {std::shared_ptr<void>(), &accelerator_.group()});
    const Examiner examiner(accelerator_, model, settings(), *tokenizer_);
    const auto adam = make_optimizer(o_, model);
    accel::DataLoader train_batches(train_, loader_options(true));
    accel::DataLoader val_batches(val_, loader_options(false));
    accel::DataLoader test_batches(test_, loader_options(false));
    auto [net, optimizer, loader, val, test] =
        accelerator_.prepare(model, *adam, train_batches, val_batches, test_batches);
    const int64_t window = accelerator_.gradient_accumulation_steps();
    optim::Scheduler schedule(*adam, make_schedule(o_, (loader.batches() + window - 1) / window));
    auto scheduler = accelerator_.prepare(schedule);
    accelerator_.register_for_checkpointing(state_);
    accelerator_.register_save_state_pre_hook([this] { keep_sums(); });
    accelerator_.init_trackers(
        "", {}, o_.resume ? accel::TrackerStart::continued : accel::TrackerStart::replace);
    if (o_.resume) {
      const std::string &from = o_.resume_from, inside = from + "/checkpoints";
      accelerator_.load_state(!from.empty() && exists(inside) ? inside : from);  // a run's folder
      take_sums();
      if (!exists(best_weights())) forget_best();  // the run goes on in another folder
    }
    const accel::SignalGuard signals;
    if (o_.profile) profile_.reset(new accel::Profile(accelerator_.profile()));
    accelerator_.print(fmt::format(
        "{} studies to train on, {} and {} to test; {} words; {} parameters; {} rank{} on {}, {}",
        train_.size(), val_.size(), test_.size(), tokenizer_->words().size(),
        model.parameter_count(), accelerator_.num_processes(),
        accelerator_.num_processes() == 1 ? "" : "s", accelerator_.device().name(),
        nn::name_of(accelerator_.mixed_precision())));

    for (int64_t epoch = loader->state().epoch; epoch < o_.epochs && !enough(); ++epoch) {
      const accel::ProfileSpan span("everything else");
      const double loss = train_epoch(epoch, net, optimizer, scheduler, loader);
      finish_epoch(epoch, loss, validate(examiner, val), net);
      if (state_.not_improved > o_.early_stop) {
        accelerator_.print(fmt::format("No better {} for {} epochs: the end", o_.monitor_metric,
                                       state_.not_improved));
        break;
      }
    }
    if (profile_) profile_->stop();
    finish(net, test, examiner);
    return 0;
  }

 private:
  // What a checkpoint is to know of the loss so far on each rank, and the way back; where there are
  // more or fewer ranks than there were, the first takes all.
  void keep_sums() {
    const nlohmann::json mine = {state_.loss_sum, state_.loss_words};
    state_.sums_of_ranks =
        fmt::format("[{}]", fmt::join(accelerator_.gather_object(mine.dump()), ","));
  }
  void take_sums() {
    const auto all = nlohmann::json::parse(state_.sums_of_ranks);
    const bool same = all.size() == static_cast<size_t>(accelerator_.num_processes());
    state_.loss_sum = state_.loss_words = 0;
    for (size_t rank = 0; rank < all.size(); ++rank)
      if (static_cast<int>(same ? rank : 0) == accelerator_.process_index()) {
        state_.loss_sum += all[rank][0].get<double>();
        state_.loss_words += all[rank][1].get<double>();
      }
  }
  bool enough() const { return o_.max_steps && accelerator_.optimizer_updates() >= *o_.max_steps; }
  StudySet usable_studies() {
    StudySet set = load_studies(o_.ann_path, o_.image_dir, o_.dataset());
    for (auto& split : {&set.splits[1], &set.splits[2]})
      if (o_.max_eval_samples && static_cast<int64_t>(split->size()) > *o_.max_eval_samples)
        split->resize(static_cast<size_t>(*o_.max_eval_samples));
    if (o_.on_bad_sample == "error") return set;
    int64_t studies = 0;
    for (const auto& split : set.splits) studies += static_cast<int64_t>(split.size());
    std::optional<accel::Progress> bar;
    if (accelerator_.is_main_process()) bar.emplace("Reading all images", studies);
    const std::vector<std::string> bad =
        take_out_bad_studies(set, static_cast<int>(o_.num_workers), [&] {
          if (bar) bar->step();
        });
    if (bar) bar->finish();
    for (size_t i = 0; i < std::min<size_t>(bad.size(), 5); ++i)
      accelerator_.print("Skipped " + bad[i]);
    accelerator_.print(
        fmt::format("Skipped {} of {} studies, whose images cannot be read", bad.size(), studies));
    return set;
  }
  StudyBatches batches(Split split) const {
    std::optional<Augmentation> augmentation;
    if (split == Split::train) augmentation = o_.augmentation();
    return {set_,
            split,
            tokenizer_,
            o_.image_form(),
            o_.max_seq_length,
            augmentation,
            o_.image_cache_mib << 20};
  }
  accel::LoaderOptions loader_options(bool shuffle) const {
    return {.batch_size = o_.batch_size,
            .shuffle = shuffle,
            .workers = static_cast<int>(o_.num_workers),
            .seed = o_.seed};
  }
  ModelSettings settings() const {
    return {o_.visual_extractor, set_->views(), o_.transformer, o_.decoding.with(*tokenizer_)};
  }
  // What a perfect model would reach has the names of all figures that there will be.
  void check_monitor_metric() const {
    std::vector<Pair> perfect;
    for (int64_t i = 0; i < val_.size(); ++i)
      perfect.push_back({val_.reference(i), {val_.reference(i)}});
    Figures known = figures_of(perfect);
    known.values.emplace_back("loss", 0);
    (void)known.of(o_.monitor_metric);
  }
  std::string best_dir() const { return o_.save_dir + "/model_best"; }
  std::string best_weights() const { return best_dir() + "/model.safetensors"; }
  void forget_best() {
    state_.best = o_.monitor_mode == "max" ? -INFINITY : INFINITY;
    state_.best_epoch = state_.not_improved = 0;
  }

  double train_epoch(int64_t epoch, const Net& net, const accel::AcceleratedOptimizer& optimizer,
                     const accel::AcceleratedScheduler& scheduler, const Loader& loader) {
    std::optional<accel::Progress> bar;
    if (accelerator_.is_main_process())
      bar.emplace(fmt::format("Epoch {}/{}", epoch + 1, o_.epochs), loader.batches());
    double &sum = state_.loss_sum, &words = state_.loss_words;
    bool cut = false;  // a resumed run may go on with the epoch
    for (StudyBatch& batch : loader) {
      const auto micro_batch = accelerator_.accumulate(net);
      const double weight = weigh_rows(batch, loader.real_rows());
      const Tensor logits = net(batch.images, batch.ids, batch.padding);
      const Tensor loss = nn::cross_entropy(logits, batch.targets, {.weight = batch.weight});
      accelerator_.backward(loss, weight);
      accelerator_.clip_grad_value_(optimizer, o_.clip_value);
      optimizer.step();
      scheduler.step();
      optimizer.zero_grad();
      const double value = loss.item();
      sum += weight > 0 ? weight * value : 0, words += weight;
      if (bar) bar->step(value);
      accelerator_.save_if_asked();
      cut = enough() && !accelerator_.end_of_dataloader();
      if (cut) break;
    }
    if (bar) bar->erase();
    const auto sums =
        accelerator_.reduce(Tensor::of<double>({sum, words}, {2}).to(accelerator_.device()))
            .to({})
            .values<double>();
    const double loss = sums[0] / sums[1];
    if (!cut) sum = words = 0;
    PINION_REQUIRE(non_finite, std::isfinite(loss), "training: expected a finite loss, got ", loss,
                   " in epoch ", epoch + 1, " (smaller --lr_ve and --lr_ed may help)");
    return loss;
  }

  static Figures validate(const Examiner& examiner, const Loader& val) {
    const accel::ProfileSpan span("validation");
    return figures_of(examiner.write(val));
  }

  void finish_epoch(int64_t epoch, double loss, const Figures& on_val, const Net& net) {
    accelerator_.print(fmt::format("Epoch {}/{}, loss {:.4f}, val{}", epoch + 1, o_.epochs, loss,
                                   line_of(on_val)));
    std::vector<accel::Field> fields = {{"epoch", epoch + 1}, {"loss", loss}};
    for (const auto& [name, value] : on_val.values) fields.push_back({name, value});
    if (accel::Tracker* tracker = accelerator_.get_tracker(accel::TrackerKind::jsonl))
      tracker->log(fields);

    const double value = o_.monitor_metric == "loss" ? loss : on_val.of(o_.monitor_metric);
    const bool better = o_.monitor_mode == "max" ? value >= state_.best : value <= state_.best;
    state_.not_improved = better ? 0 : state_.not_improved + 1;
    if (better) {
      state_.best = value, state_.best_epoch = epoch + 1;
      accelerator_.save_model(net, best_dir());
      accelerator_.on_main_process([&] { describe_model(best_dir(), settings(), *tokenizer_); });
    }
    if (better || (epoch + 1) % o_.save_period == 0) accelerator_.save_state({}, better);
  }

  // The best model on the test split, beside what needs no image at all.
  void finish(const Net& net, const Loader& test, const Examiner& examiner) {
    PINION_REQUIRE(usage, state_.best_epoch > 0,
                   "--epochs, --max_steps: expected more than the checkpoint has, as there is no ",
                   best_weights(), ", got nothing left to train");
    nn::load_weights(*net, best_weights());
    const Examiner::Result result = examiner.examine(test, train_, o_.ann_path);
    accelerator_.print(fmt::format("\nBest: epoch {}, val {} {:.4f}. Test:\n{}{}",
                                   state_.best_epoch, o_.monitor_metric, state_.best,
                                   text_of(result.controls.table), result.looks));
    for (size_t i = 0; i < std::min<size_t>(2, result.pairs.size()); ++i)
      accelerator_.print(fmt::format("\n{}\n  true:    {}\n  written: {}", test_.studies()[i].id,
                                     result.pairs[i].references.front(),
                                     result.pairs[i].hypothesis));
    accelerator_.end_training();
    const auto whole = accelerator_.summon_full_params();
    accelerator_.on_main_process([&] {
      write_page(result, *net);
      record(result.controls.table.front().second);
    });
    accelerator_.print(fmt::format(
        "\nSaved {0}/model_best/model.safetensors; look at {0}/report.html", o_.save_dir));
  }

  void write_page(const Examiner::Result& result, ReportModel& model) const {
    constexpr size_t kShown = 8;
    RunPage page;
    page.title = "Report generator: " + o_.dataset_name;
    page.subtitle =
        fmt::format("{} studies, {} parameters, {} rank{}, {}", train_.size(),
                    model.parameter_count(), accelerator_.num_processes(),
                    accelerator_.num_processes() == 1 ? "" : "s", accelerator_.device().name());
    page.metrics_path = o_.save_dir + "/metrics.jsonl";
    page.best_epoch = state_.best_epoch;
    page.controls = result.controls;
    page.blank_report = result.blank_report;
    page.looks = result.looks;
    if (profile_) page.time = profile_->shares();
    model.eval();
    for (size_t i = 0; i < std::min(kShown, result.pairs.size()); ++i) {
      const StudyEntry& study = test_.studies()[i];
      GalleryEntry entry{
          study.id, {}, result.pairs[i].references.front(), result.pairs[i].hypothesis, {}};
      for (int64_t view = 0; view < set_->views(); ++view)
        entry.films.push_back(set_->load(study, view));
      const Tensor films = tensor_of(entry.films, o_.image_form()).to(accelerator_.device());
      entry.attended = sentences_of(model, films, tokenizer_->encode(entry.written, kNoLimit));
      page.gallery.push_back(std::move(entry));
    }
    page.settings = {{"visual_extractor", o_.visual_extractor},
                     {"model", o_.memory},
                     {"d_model", std::to_string(o_.transformer.d_model)},
                     {"batch_size", std::to_string(o_.batch_size)},
                     {"epochs", std::to_string(o_.epochs)},
                     {"seed", std::to_string(o_.seed)},
                     {"sample_method", o_.decoding.options.method},
                     {"monitor_metric", o_.monitor_metric},
                     {"sync_bn", o_.sync_bn ? "yes" : "no"},
                     {"mixed_precision", nn::name_of(accelerator_.mixed_precision())}};
    write_file_atomic(o_.save_dir + "/report.html", html_of(page));
  }

  // The sentences of a written report, 0, the words, 0, with what they attend to.
  std::vector<Attended> sentences_of(ReportModel& model, const Tensor& films,
                                     const std::vector<int64_t>& report) const {
    const NoGrad no_grad;
    const std::vector<int64_t> ids(report.begin() + 1, report.end() - 1);
    std::vector<std::string> words;
    for (const int64_t id : ids) words.push_back(tokenizer_->word_of(id));
    return by_sentence(words,
                       attention_of(model.encoder_decoder, model.visual_extractor(films), ids));
  }

  // A row of the file that all runs on a data set share: the columns are always the same.
  void record(const Figures& figures) const {
    constexpr std::pair<const char*, const char*> kColumns[] = {
        {"test_BLEU_1", "BLEU_1"}, {"test_BLEU_2", "BLEU_2"},   {"test_BLEU_3", "BLEU_3"},
        {"test_BLEU_4", "BLEU_4"}, {"test_ROUGE_L", "ROUGE_L"}, {"test_METEOR_es", "METEOR_es"},
        {"test_CIDEr", "CIDEr"},   {"test_unique", "unique"},   {"test_F1", "F1"},
        {"test_exact", "exact"}};
    const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
    std::vector<accel::Field> row = {{"time", static_cast<int64_t>(now)},
                                     {"seed", static_cast<int64_t>(o_.seed)},
                                     {"best_model_from", "val"},
                                     {"epoch", state_.best_epoch}};
    for (const auto& [column, name] : kColumns)
      row.push_back({column, figures.has(name) ? figures.of(name) : std::nan("")});
    accel::CsvTracker(o_.record_dir + "/" + o_.dataset_name + ".csv",
                      accel::TrackerStart::continued)
        .log(row);
  }

  static constexpr int64_t kNoLimit = int64_t{1} << 20;

  Options o_;
  accel::Accelerator accelerator_;
  std::shared_ptr<const StudySet> set_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  StudyBatches train_, val_, test_;
  RunState state_;
  std::unique_ptr<accel::Profile> profile_;  // with --profile
};

}  // namespace

}  // namespace pinion::report

int main(int argc, char** argv) {
  return pinion::apps::run_program("train_with_accelerate", [&] {
    const auto options = pinion::report::parse_options(argc, argv);
    if (!options) return 0;
    return pinion::report::advising(
        "a smaller --batch_size needs less (with --gradient_accumulation_steps N the steps are "
        "those "
        "of N times as many), and so do --mixed_precision bf16, a smaller --d_model or "
        "--visual_extractor, and more ranks with pinion launch --use_deepspeed --zero_stage 2",
        [&] { return pinion::report::Run(*options).train(); });
  });
}
