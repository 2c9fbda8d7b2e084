// SPDX-License-Identifier: Apache-2.0
// Flags. A preset is a set of other defaults, which flags overrule.
#include "pinion/apps/report/options.h"

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "pinion/apps/common/flag_checks.h"
#include "pinion/apps/common/program.h"
#include "pinion/apps/report/model_folder.h"
#include "pinion/runtime/log.h"

namespace pinion::report {

namespace {

// What trains on two cores in about a minute: films of 64 x 64, one layer of 64 features.
void use_nano(Options& o) {
  o.visual_extractor = "nano";
  o.transformer = TransformerOptions::nano();
  o.lr_ve = 3e-3, o.lr_ed = 2e-3;
  o.lr_scheduler = "cosine";
  o.epochs = 12;
  o.image_dir = "data/cxr/images", o.ann_path = "data/cxr/annotation.json";
  o.save_dir = "results/cxr";
  o.decoding.options.method = "greedy";
}

void add_data_flags(CLI::App& app, Options& o) {
  app.add_option("--image_dir", o.image_dir, "folder of the images");
  app.add_option("--ann_path", o.ann_path, "annotation.json");
  app.add_option("--dataset_name", o.dataset_name)->check(CLI::IsMember({"iu_xray", "mimic_cxr"}));
  app.add_option("--max_seq_length", o.max_seq_length, "words of a report, its ends included")
      ->check(CLI::Range(2, 5000));
  app.add_option("--threshold", o.threshold, "how often a word must occur to be learnt")
      ->check(apps::positive());
  app.add_option("--num_workers", o.num_workers, "threads that make batches")
      ->check(CLI::Range(0, 256));
  app.add_option("--on_bad_sample", o.on_bad_sample,
                 "skip: read all images at the start, go on without studies whose images are bad")
      ->check(CLI::IsMember({"error", "skip"}));
  app.add_option("--hflip_prob", o.hflip_prob,
                 "how often a film to train on is mirrored (default: 0.5, of nano 0)")
      ->check(CLI::Range(0.0, 1.0));
  app.add_option("--batch_size", o.batch_size, "studies of each rank")->check(apps::positive());
  app.add_option("--image_cache", o.image_cache_mib,
                 "MiB of memory that each rank gives the films of each split once they were read, "
                 "8 bits a value")
      ->check(CLI::Range(0, 1 << 30));
  app.add_option("--max_eval_samples", o.max_eval_samples,
                 "only so many studies, the first, of the validation and of the test split")
      ->check(apps::positive());
}

void add_model_flags(CLI::App& app, Options& o, std::optional<bool>& pretrained) {
  app.add_option("--visual_extractor", o.visual_extractor, "resnet18 … resnet152, nano");
  app.add_option("--visual_extractor_pretrained", pretrained,
                 "start from --pretrained_weights (default: when they are given)");
  app.add_option("--pretrained_weights", o.pretrained_weights,
                 "safetensors file of the extractor, with torchvision's names");
  app.add_option("--model", o.memory, "base, rm or rm_mcln")
      ->check(CLI::IsMember({"base", "rm", "rm_mcln"}));
  TransformerOptions& t = o.transformer;
  app.add_option("--d_model", t.d_model)->check(apps::positive());
  app.add_option("--d_ff", t.d_ff)->check(apps::positive());
  app.add_option("--num_heads", t.heads)->check(apps::positive());
  app.add_option("--num_layers", t.layers)->check(apps::positive());
  app.add_option("--dropout", t.dropout)->check(CLI::Range(0.0, 0.999));
  app.add_option("--drop_prob_lm", t.drop_prob_lm, "dropout of the embedded features")
      ->check(CLI::Range(0.0, 0.999));
  app.add_option("--rm_num_slots", t.rm_slots)->check(apps::positive());
  app.add_option("--rm_num_heads", t.rm_heads)->check(apps::positive());
}

// Flags of the published programs that change nothing here: what has one value only, and what is
// unused there, too.
struct Published {
  int64_t n_gpu = 1, use_bn = 0, logit_layers = 1, bos_idx = 0, eos_idx = 0, pad_idx = 0;
  int64_t output_logsoftmax = 1, log_period = 1000, noamopt_warmup = 5000, noamopt_factor = 1;

  void add(CLI::App& app) {
    const auto only = [&](const char* flag, int64_t& value, const std::string& why) {
      app.add_option(flag, value, why)->check(CLI::IsMember({value}));
    };
    only("--n_gpu", n_gpu, "only this: ranks come from pinion launch --num_processes N");
    only("--use_bn", use_bn, "only this");
    for (auto* idx : {&bos_idx, &eos_idx, &pad_idx})
      only(idx == &bos_idx   ? "--bos_idx"
           : idx == &eos_idx ? "--eos_idx"
                             : "--pad_idx",
           *idx, "only this");
    for (const auto& [flag, value] :
         {std::pair("--logit_layers", &logit_layers),
          std::pair("--output_logsoftmax", &output_logsoftmax),
          std::pair("--log_period", &log_period), std::pair("--noamopt_warmup", &noamopt_warmup),
          std::pair("--noamopt_factor", &noamopt_factor)})
      app.add_option(flag, *value, "changes nothing, as in the published code");
  }
};

void add_training_flags(CLI::App& app, Options& o, std::string& precision) {
  app.add_option("--epochs", o.epochs)->check(apps::positive());
  app.add_option("--max_steps", o.max_steps,
                 "the run ends, with an evaluation, when the weights were updated so often")
      ->check(apps::positive());
  app.add_option("--optim", o.optim)->check(CLI::IsMember({"Adam", "AdamW"}));
  app.add_option("--lr_ve", o.lr_ve, "learning rate of the extractor")->check(apps::non_negative());
  app.add_option("--lr_ed", o.lr_ed, "learning rate of all else")->check(apps::non_negative());
  app.add_option("--weight_decay", o.weight_decay)->check(apps::non_negative());
  app.add_option("--amsgrad", o.amsgrad);
  app.add_option("--lr_scheduler", o.lr_scheduler)->check(CLI::IsMember({"StepLR", "cosine"}));
  app.add_option("--step_size", o.step_size, "epochs between steps of StepLR")
      ->check(apps::positive());
  app.add_option("--gamma", o.gamma, "factor of a step of StepLR")->check(apps::positive());
  app.add_option("--clip_value", o.clip_value, "limit of each element of a gradient")
      ->check(apps::positive());
  app.add_flag("--sync_bn", o.sync_bn,
               "batch norm by the statistics of all ranks' films of a view");
  app.add_option("--seed", o.seed)->check(apps::non_negative());
  app.add_option("--gradient_accumulation_steps", o.gradient_accumulation_steps)
      ->check(apps::positive());
  app.add_flag("--use_amp", o.use_amp, "16-bit arithmetic: fp16 on a GPU, bf16 on a CPU");
  app.add_option("--mixed_precision", precision)->check(CLI::IsMember({"no", "fp16", "bf16"}));
  app.add_flag("--cpu", o.cpu, "no GPU, even where there is one");
  app.add_option("--device", o.device, "cpu, cuda, cuda:1 or auto")->capture_default_str();
  app.add_option("--num_processes", o.num_processes, "must be what pinion launch was told");
  for (const char* unused : {"--adam_betas", "--adam_eps"})
    app.add_option_function<std::vector<std::string>>(
           unused, [](const auto&) {}, "changes nothing, as in DACG")
        ->expected(1, 2);
}

void add_run_flags(CLI::App& app, Options& o) {
  app.add_option("--save_dir", o.save_dir);
  app.add_option("--record_dir", o.record_dir);
  app.add_option("--save_period", o.save_period, "epochs between checkpoints")
      ->check(apps::positive());
  app.add_option("--monitor_mode", o.monitor_mode)->check(CLI::IsMember({"min", "max"}));
  app.add_option(
      "--monitor_metric", o.monitor_metric,
      "BLEU_1 … BLEU_4, ROUGE_L, METEOR_es, CIDEr, F1, exact (of the validation split) or loss");
  app.add_option("--early_stop", o.early_stop, "epochs without improvement before the end")
      ->check(apps::positive());
  app.add_flag(
      "--profile", o.profile,
      "record where the time of training goes: in report.html, and as a trace of each rank, "
      "profile_0.json …, for ui.perfetto.dev");
}

}  // namespace

std::string Options::settings() const {
  const TransformerOptions& t = transformer;
  const nlohmann::json out = {
      {"dataset_name", dataset_name},
      {"max_seq_length", max_seq_length},
      {"threshold", threshold},
      {"batch_size", batch_size},
      {"hflip_prob", augmentation().hflip_prob},
      {"visual_extractor", visual_extractor},
      {"model", memory},
      {"d_model", t.d_model},
      {"d_ff", t.d_ff},
      {"num_heads", t.heads},
      {"num_layers", t.layers},
      {"dropout", t.dropout},
      {"drop_prob_lm", t.drop_prob_lm},
      {"rm_num_slots", t.rm_slots},
      {"rm_num_heads", t.rm_heads},
      {"optim", optim},
      {"lr_ve", lr_ve},
      {"lr_ed", lr_ed},
      {"weight_decay", weight_decay},
      {"amsgrad", amsgrad},
      {"lr_scheduler", lr_scheduler},
      {"step_size", step_size},
      {"gamma", gamma},
      {"clip_value", clip_value},
      {"sync_bn", sync_bn},
      {"seed", seed},
  };
  return out.dump();
}

std::optional<Options> parse_options(int argc, char** argv) {
  Options o;
  std::string preset = "r2gen", precision, resume;
  int64_t rm_d_model = 0;
  std::optional<bool> pretrained;
  for (int i = 1; i < argc; ++i) {  // it sets the defaults that --help shows
    const std::string_view flag = argv[i];
    if (flag == "--preset=nano" ||
        (i + 1 < argc && flag == "--preset" && std::string_view(argv[i + 1]) == "nano"))
      use_nano(o);
  }
  CLI::App app("Trains a generator of radiology reports (R2Gen) on any number of ranks.");
  app.option_defaults()->always_capture_default();
  app.add_option("--preset", preset, "other defaults: nano is small and quick")
      ->check(CLI::IsMember({"r2gen", "nano"}));
  add_data_flags(app, o);
  add_model_flags(app, o, pretrained);
  app.add_option("--rm_d_model", rm_d_model, "must be --d_model (default)");
  app.add_option("--d_vf", o.d_vf, "must be the width of the extractor (default)");
  o.decoding.add(app);
  add_training_flags(app, o, precision);
  add_run_flags(app, o);
  Published published;
  published.add(app);
  CLI::Option* resumed = app.add_option("--resume", resume,
                                        "go on from this checkpoint or the newest of this run's "
                                        "folder (default: of --save_dir)")
                             ->expected(0, 1);
  app.add_option("--allow_config_change", o.allow_config_change,
                 "settings in which --resume may differ from the checkpoint's run, by their names")
      ->delimiter(',');
  app.add_flag("--allow_world_size_change", o.allow_world_size_change,
               "let --resume go on with another number of ranks");
  if (!apps::parse_command_line(app, argc, argv)) return std::nullopt;

  PINION_REQUIRE(usage, rm_d_model == 0 || rm_d_model == o.transformer.d_model,
                 "--rm_d_model: expected --d_model, ", o.transformer.d_model, ", got ", rm_d_model);
  PINION_REQUIRE(usage, !pretrained.value_or(false) || !o.pretrained_weights.empty(),
                 "--visual_extractor_pretrained: expected --pretrained_weights FILE with it, got "
                 "none");
  if (!pretrained.value_or(true)) o.pretrained_weights.clear();
  if (!precision.empty()) o.mixed_precision = nn::parse_precision(precision);
  o.transformer.memory = memory_of(o.memory);
  o.decoding.options.max_length = o.max_seq_length;
  o.decoding.options.seed = o.seed;
  check(o.decoding.options);
  o.resume = resumed->count() > 0;
  o.resume_from = resume;
  return o;
}

}  // namespace pinion::report
