// SPDX-License-Identifier: Apache-2.0
// Configuration files as people have them: samples of every version and kind, what they mean, what
// is refused with which words, writing and reading back, and who wins over whom.
#include <unistd.h>

#include <algorithm>

#include "config_testing.h"
#include "pinion/runtime/fs.h"
#include "pinion/tests/support/paths.h"

namespace pinion::accel {
namespace {

const std::string kFolder = in_source("tests/configs/");

Config read_sample(const std::string& name) {
  Config config;
  config.read_file(kFolder + name);
  config.check();
  return config;
}

struct Sample {
  const char *file, *means;
};

TEST(Config, SamplesMeanWhatTheySay) {
  const Sample samples[] = {
      {"single_accelerator.yaml", "NO 1x1 bf16 zero0 cpu=false notes=0"},
      {"multi_gpu.yaml", "MULTI_GPU 2x1 bf16 zero0 cpu=false notes=0"},
      {"multi_node.yaml", "MULTI_GPU 8x2 no zero0 cpu=false notes=0"},
      {"0_11_0.yaml", "NO 1x1 no zero0 cpu=false notes=0"},
      {"0_12_0.yaml", "NO 1x1 no zero0 cpu=false notes=0"},
      {"latest.yaml", "NO 1x1 no zero0 cpu=false notes=3"},
      {"validate_launch_cmd.yaml", "NO 1x1 no zero0 cpu=false notes=2"},
      {"0_28_0_mpi.yaml", "MULTI_CPU 16x4 no zero0 cpu=true notes=1"},
      {"answers_no.yaml", "NO 1x1 no zero0 cpu=false notes=0"},
      {"config_default.yaml", "NO 1x1 no zero0 cpu=true notes=0"},
      {"two_gpus_chinese.yaml", "MULTI_GPU 2x1 fp16 zero0 cpu=false notes=0"},
      {"bare_no.yaml", "NO 1x1 fp16 zero0 cpu=false notes=0"},
      {"two_gpus_plain.yaml", "MULTI_GPU 2x1 fp16 zero0 cpu=false notes=0"},
      {"my_config.yaml", "MULTI_GPU 4x1 fp16 zero0 cpu=false notes=0"},
      {"thirteen_keys.json", "MULTI_GPU 2x1 fp16 zero0 cpu=false notes=0"},
      {"fsdp.yaml", "FSDP 2x1 bf16 zero3 cpu=false notes=1"},
      {"slurm_fsdp.yaml", "FSDP -x1 no zero3 cpu=false notes=1"},
      {"latest_fsdp.yaml", "FSDP 1x1 no zero3 cpu=false notes=2"},
      {"fp8.yaml", "NO 1x1 bf16 zero0 cpu=false notes=4"},
      {"0_34_0_fp8.yaml", "MULTI_GPU 2x1 bf16 zero0 cpu=false notes=5"},
      {"cp.yaml", "FSDP 8x1 bf16 zero3 cpu=false notes=4"},
      {"tp_hsdp.yaml", "FSDP 8x1 bf16 zero3 cpu=false notes=4"},
      {"sp_alst.yml", "DEEPSPEED 4x1 no zero3 cpu=false notes=3"},
      {"fsdp2_tp.yaml", "FSDP 4x1 no zero3 cpu=false notes=0"},
      {"legacy.yaml", "MULTI_GPU 2x1 fp16 zero0 cpu=false notes=3"},
  };
  for (const Sample& sample : samples) {
    SCOPED_TRACE(sample.file);
    const Config config = read_sample(sample.file);
    EXPECT_EQ(summary(config), sample.means) << [&] {
      std::string all;
      for (const std::string& note : config.notes()) all += note + "\n";
      return all;
    }();
  }
}

TEST(Config, SamplesThatMustFailSayWhy) {
  const Sample samples[] = {
      {"invalid_keys.yaml", "14:1: expected a known key, got 'invalid_key'"},
      {"0_30_0_sagemaker.yaml", "5:1: expected each key once in a map, got 'debug' again"},
      {"sagemaker.yaml",
       "1:1: compute_environment: expected LOCAL_MACHINE, got 'AMAZON_SAGEMAKER': Pinion does not "
       "start jobs on Amazon SageMaker"},
      {"multi_xpu.yaml",
       "2:1: distributed_type: expected one of NO, MULTI_CPU, MULTI_GPU, DEEPSPEED or FSDP, got "
       "'MULTI_XPU': devices are CPUs and CUDA GPUs, models are trained data-parallel or with "
       "ZeRO"},
  };
  for (const Sample& sample : samples)
    EXPECT_EQ(error_of([&] { read_sample(sample.file); }),
              "78 " + kFolder + sample.file + ":" + sample.means);
  EXPECT_EQ(error_of([&] { read_sample("none.yaml"); }).substr(0, 3), "66 ");
}

TEST(Config, EverySampleInTheTreeIsTested) {  // and the files for users are good
  EXPECT_EQ(std::ranges::distance(std::filesystem::directory_iterator(kFolder)), 25 + 4 + 4);
  for (const auto& entry : std::filesystem::directory_iterator(in_source("configs"))) {
    Config config;
    config.read_file(entry.path());
    config.check();
    EXPECT_GE(config.integer("num_processes"), 1) << entry.path();
    EXPECT_TRUE(config.notes().empty()) << entry.path() << config.notes().front();
  }
}

// Files of DeepSpeed are found from the current directory, as Accelerate finds them.
TEST(Config, TakesWhatADeepSpeedFileSays) {
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(kFolder);
  const Config config = read_sample("deepspeed.yaml");
  EXPECT_EQ(summary(config), "DEEPSPEED 2x1 fp16 zero3 cpu=false notes=0");
  EXPECT_EQ(config.gradient_accumulation_steps(), 3);
  EXPECT_EQ(config.gradient_clipping(), 1.0);
  EXPECT_EQ(config["deepspeed_config.zero_stage"].where, "zero_stage3.json:15:9");
  const auto with = [](const std::string& stage, const std::string& rest) {
    return error_of_text(
        "distributed_type: DEEPSPEED\ndeepspeed_config:\n"
        "  deepspeed_config_file: zero_stage" +
        stage + ".json\n" + rest);
  };
  EXPECT_EQ(with("1", ""), "");
  EXPECT_EQ(with("2", "  zero_stage: 2\n"), "");
  EXPECT_EQ(with("2", "  zero_stage: 3\n"),
            "78 zero_stage2.json:15:9: deepspeed_config.zero_stage: expected 3 as at c.yaml:4:3, "
            "got 2");
  EXPECT_EQ(with("9", "").substr(0, 3), "66 ");
  std::filesystem::current_path(before);
}

// --- spellings -----------------------------------------------------------------------------------

TEST(Config, BareWordsOfYamlAreWhatTheyLookLike) {
  for (const char* no : {"NO", "no", "No", "'NO'", "\"no\"", "off", "false"}) {
    Config config;
    config.read_text(std::string("distributed_type: ") + no + "\nmixed_precision: " + no, "c");
    EXPECT_EQ(config.text("distributed_type"), "NO") << no;
    EXPECT_EQ(config.text("mixed_precision"), "no") << no;
  }
  for (const char* text : {"use_cpu: yes", "use_cpu: 'true'", "use_cpu: On", "use_cpu: 1"}) {
    Config config;
    config.read_text(text, "c");
    EXPECT_TRUE(config.flag("use_cpu")) << text;
  }
}

TEST(Config, FormsOfAFile) {
  const char* forms[] = {
      "gpu_ids: 0,1\r\nnum_processes: 2\r\n", "\xef\xbb\xbfgpu_ids: '0,1'\nnum_processes: \"2\"",
      "{gpu_ids: \"0, 1\", num_processes: 0b10}", "{\"gpu_ids\": \"0,1\",\n \"num_processes\": 2}"};
  for (const char* form : forms) {
    Config config;
    config.read_text(form, "c");
    config.check();
    EXPECT_EQ(config.text("gpu_ids"), "0,1") << form;
    EXPECT_EQ(config.integer("num_processes"), 2) << form;
  }
  Config one;
  one.read_text("gpu_ids: 0\nmain_process_ip: '1234'\nmixed_precision: BF16\n", "c");
  EXPECT_EQ(one.text("gpu_ids"), "0");
  EXPECT_EQ(one.text("main_process_ip"), "1234");
  EXPECT_EQ(one.text("mixed_precision"), "bf16");
  EXPECT_EQ(error_of_text(""), "78 c.yaml: expected keys and values, got nothing");
  EXPECT_EQ(error_of_text("# only a comment"), "78 c.yaml: expected keys and values, got nothing");
  EXPECT_EQ(error_of_text("[]"), "78 c.yaml: expected keys and values, got a list");
}

TEST(Config, PrefixesOfSectionsMayBeLeftOut) {
  for (const char* prefix : {"", "fsdp_"}) {
    Config config;
    config.read_text(std::string("distributed_type: FSDP\nfsdp_config: {") + prefix +
                         "sharding_strategy: SHARD_GRAD_OP}",
                     "c");
    EXPECT_EQ(config.zero_stage(), 2) << prefix;
  }
}

TEST(Config, StrategiesAreStagesOfZero) {
  const std::pair<const char*, int> cases[] = {
      {"FSDP\nfsdp_config: {sharding_strategy: NO_SHARD}", 0},
      {"FSDP\nfsdp_config: {sharding_strategy: HYBRID_SHARD}", 3},
      {"FSDP\nfsdp_config: {sharding_strategy: HYBRID_SHARD_ZERO2}", 2},
      {"FSDP\nfsdp_config: {sharding_strategy: 2}", 2},
      {"FSDP\nfsdp_config: {version: 2}", 3},
      {"FSDP\nfsdp_config: {version: 2, reshard_after_forward: false}", 2},
      {"FSDP", 3},
      {"DEEPSPEED", 2},
      {"DEEPSPEED\ndeepspeed_config: {zero_stage: 1}", 1},
      {"MULTI_GPU\ndeepspeed_config: {zero_stage: 1}", 0},
  };
  for (const auto& [text, stage] : cases) {
    Config config;
    config.read_text(std::string("distributed_type: ") + text, "c");
    config.check();
    EXPECT_EQ(config.zero_stage(), stage) << text;
  }
}

// --- unknown keys and contradictions -------------------------------------------------------------

TEST(Config, UnknownKeysNameTheirPlaceAndTheNearestKey) {
  const std::pair<const char*, const char*> cases[] = {
      {"a: 1\n", "1:1: expected a known key, got 'a'"},
      {"debug: no\nnum_proceses: 2\n",
       "2:1: expected a known key, got 'num_proceses'; did you mean num_processes?"},
      {"zero_stage: 2\n",
       "1:1: expected a known key, got 'zero_stage'; it belongs under deepspeed_config"},
      {"deepspeed_config:\n  zero_stag: 3\n",
       "2:3: expected a known key of deepspeed_config, got 'zero_stag'; did you mean zero_stage?"},
      {"deepspeed_config:\n  use_cpu: true\n",
       "2:3: expected a known key of deepspeed_config, got 'use_cpu'; it belongs at the top level"},
      {"fsdp_config:\n  nonsense_key: 7\n",
       "2:3: expected a known key of fsdp_config, got 'nonsense_key'"},
      {"fsdp_confg: {}\n",
       "1:1: expected a known key, got 'fsdp_confg'; did you mean fsdp_config?"},
      {"distributed_type: MULTIGPU\n",
       "1:1: distributed_type: expected one of NO, MULTI_CPU, MULTI_GPU, DEEPSPEED or FSDP, got "
       "'MULTIGPU'; did you mean MULTI_GPU?"},
      {"deepspeed_config: 3\n", "1:1: deepspeed_config: expected a map, got one value"},
      {"num_processes: [2]\n", "1:1: num_processes: expected one value, got a list"},
      {"deepspeed_config: {offload_param_device: cpu}\n",
       "1:20: deepspeed_config.offload_param_device: expected none, got 'cpu': tensors stay on the "
       "device they were made on"},
      {"tpu_use_cluster: true\n",
       "1:1: tpu_use_cluster: expected false, got 'true': there are no TPUs here"},
  };
  for (const auto& [text, error] : cases)
    EXPECT_EQ(error_of_text(text), std::string("78 c.yaml:") + error);
}

TEST(Config, ContradictionsNameBothPlaces) {
  const std::pair<const char*, const char*> cases[] = {
      {"num_processes: 3\nnum_machines: 2\n",
       "1:1: num_processes: expected a multiple of num_machines, got 3 (num_machines 2: "
       "c.yaml:2:1)"},
      {"machine_rank: 2\nnum_machines: 2\nmain_process_ip: a\n",
       "1:1: machine_rank: expected less than num_machines, got 2 (num_machines 2: c.yaml:2:1)"},
      {"machine_rank: 1\n",
       "1:1: machine_rank: expected less than num_machines, got 1 (num_machines 1: default)"},
      {"distributed_type: MULTI_GPU\nuse_cpu: true\n",
       "1:1: distributed_type: expected MULTI_CPU, got MULTI_GPU (use_cpu true: c.yaml:2:1)"},
      {"distributed_type: MULTI_CPU\nuse_cpu: false\n",
       "2:1: use_cpu: expected true, got false (distributed_type MULTI_CPU: c.yaml:1:1)"},
      {"distributed_type: 'NO'\nnum_processes: 2\n",
       "1:1: distributed_type: expected MULTI_CPU or MULTI_GPU, got NO (num_processes 2: "
       "c.yaml:2:1)"},
      {"num_processes: 2\ngpu_ids: '1'\n",
       "2:1: gpu_ids: expected a GPU for each rank of the machine, got 1 (num_processes 2: "
       "c.yaml:1:1)"},
      {"num_processes: 3\nparallelism_config: {tp_size: 2}\n",
       "1:1: num_processes: expected the product of the sizes in parallelism_config, got 3 "
       "(parallelism_config.parallelism_config_tp_size 2: c.yaml:2:22)"},
  };
  for (const auto& [text, error] : cases)
    EXPECT_EQ(error_of_text(text), std::string("78 c.yaml:") + error);
  EXPECT_EQ(error_of_text("machine_rank: 1\nnum_machines: 2\n"),
            "78 default: main_process_ip: expected the address of machine 0, got none "
            "(machine_rank 1: c.yaml:1:1)");
  EXPECT_EQ(error_of_text("gpu_ids: '1,1'\n"),
            "78 c.yaml:1:1: gpu_ids: expected all, or the numbers of GPUs with commas, each once, "
            "got '1,1'");
}

TEST(Config, AFlagSettlesAContradictionWithTheFile) {
  Config cpu;
  cpu.read_text("distributed_type: MULTI_GPU\nnum_processes: 2\n", "c.yaml");
  cpu.set_flag("use_cpu", "true", "--cpu");
  cpu.check();
  EXPECT_EQ(summary(cpu), "MULTI_CPU 2x1 no zero0 cpu=true notes=0");
  EXPECT_EQ(cpu["distributed_type"].where, "because of --cpu");

  Config more;
  more.read_text("distributed_type: NO\nnum_processes: 1\n", "c.yaml");
  more.set_flag("num_processes", "2");
  more.check();
  EXPECT_EQ(summary(more), "- 2x1 no zero0 cpu=false notes=0");

  const auto odd = [] {
    Config config;
    config.read_text("num_machines: 2", "c.yaml");
    config.set_flag("num_processes", "3");
    config.check();
  };
  EXPECT_EQ(error_of(odd).substr(0, 20), "64 --num_processes: ");
}

// --- origins -------------------------------------------------------------------------------------

struct Source {
  Origin origin;
  const char* value;
};

void give(Config& config, const Source& source) {
  if (source.origin == Origin::flag) config.set_flag("mixed_precision", source.value);
  if (source.origin == Origin::file)
    config.read_text(std::string("mixed_precision: ") + source.value, "c.yaml");
  if (source.origin == Origin::environment) {
    const VariableGuard variable("ACCELERATE_MIXED_PRECISION", source.value);
    config.read_environment();
  }
}

// Every set of sources in every order: the strongest wins.
TEST(Config, FlagOverFileOverEnvironmentOverDefault) {
  const Source sources[] = {
      {Origin::environment, "fp16"}, {Origin::file, "bf16"}, {Origin::flag, "fp8"}};
  const VariableGuard none("ACCELERATE_MIXED_PRECISION", std::nullopt);
  for (int set = 0; set < 8; ++set) {
    std::vector<int> order;
    for (int i = 0; i < 3; ++i)
      if (set >> i & 1) order.push_back(i);
    do {
      Config config;
      for (const int i : order) give(config, sources[i]);
      const int strongest = order.empty() ? -1 : *std::ranges::max_element(order);
      EXPECT_EQ(config.text("mixed_precision"), strongest < 0 ? "no" : sources[strongest].value);
      EXPECT_EQ(config["mixed_precision"].origin,
                strongest < 0 ? Origin::standard : sources[strongest].origin);
    } while (std::ranges::next_permutation(order).found);
  }
}

TEST(Config, ErrorsNameTheVariableAndTheFlag) {
  const VariableGuard variable("ACCELERATE_MIXED_PRECISION", "fp31");
  const auto read = [] { Config().read_environment(); };
  EXPECT_EQ(error_of(read),
            "78 ACCELERATE_MIXED_PRECISION: expected one of no, fp16, bf16 or fp8, got 'fp31'; did "
            "you mean fp16?");
  const auto set = [] { Config().set_flag("zero_stage", "4"); };
  EXPECT_EQ(error_of(set), "64 --zero_stage: expected an integer from 0 to 3, got '4'");
  const VariableGuard sharded("ACCELERATE_USE_FSDP", "maybe");
  const VariableGuard good("ACCELERATE_MIXED_PRECISION", std::nullopt);
  EXPECT_EQ(error_of(read), "78 ACCELERATE_USE_FSDP: expected true or false, got 'maybe'");
}

// What the launcher hands to ranks is what they find.
TEST(Config, TheEnvironmentCarriesEverythingToTheRanks) {
  const char* files[] = {
      "distributed_type: FSDP\nmixed_precision: bf16\n"
      "fsdp_config: {sharding_strategy: SHARD_GRAD_OP}\n",
      "distributed_type: DEEPSPEED\ndebug: true\nuse_cpu: true\n"
      "deepspeed_config: {zero_stage: 1, gradient_accumulation_steps: 4, "
      "gradient_clipping: 0.5}\n",
      "distributed_type: MULTI_CPU\ndeepspeed_config: {zero_stage: 1}\n"};
  for (const char* text : files) {
    Config launcher;
    launcher.read_text(text, "c.yaml");
    launcher.check();
    std::vector<std::unique_ptr<VariableGuard>> variables;
    for (const auto& [name, value] : launcher.environment())
      variables.push_back(std::make_unique<VariableGuard>(name, value));
    Config rank;
    rank.read_environment();
    rank.check();
    EXPECT_EQ(rank.zero_stage(), launcher.zero_stage()) << text;
    EXPECT_EQ(rank.precision(), launcher.precision()) << text;
    EXPECT_EQ(rank.text("use_cpu"), launcher.text("use_cpu")) << text;
    EXPECT_EQ(rank.text("debug"), launcher.text("debug")) << text;
    EXPECT_EQ(rank.gradient_clipping(), launcher.gradient_clipping()) << text;
    EXPECT_EQ(rank.gradient_accumulation_steps(), launcher.gradient_accumulation_steps()) << text;
  }
}

TEST(Config, TheTableShowsWhereEachValueComesFrom) {
  const VariableGuard variable("ACCELERATE_DEBUG_MODE", "true");
  Config config;
  config.read_environment();
  config.read_text("num_processes: 2\ndeepspeed_config: {zero_stage: 1}\n", "c.yaml");
  config.set_flag("use_cpu", "1", "--cpu");
  const std::string table = config.table();
  for (const char* line : {
           "debug                              true             environment "
           "ACCELERATE_DEBUG_MODE\n",
           "mixed_precision                    no               default\n",
           "num_processes                      2                file c.yaml:1:1\n",
           "use_cpu                            true             flag --cpu\n",
           "deepspeed_config.zero_stage        1                file c.yaml:2:20\n",
       })
    EXPECT_NE(table.find(line), std::string::npos) << line << "not in\n" << table;
}

TEST(Config, TheDefaultFileIsWhereAccelerateKeepsIt) {
  const VariableGuard home("HOME", "/h");
  const VariableGuard hf("HF_HOME", std::nullopt), xdg("XDG_CACHE_HOME", std::nullopt);
  EXPECT_EQ(default_config_path(), "/h/.cache/huggingface/accelerate/default_config.yaml");
  const VariableGuard xdg_set("XDG_CACHE_HOME", "/x");
  EXPECT_EQ(default_config_path(), "/x/huggingface/accelerate/default_config.yaml");
  const VariableGuard hf_set("HF_HOME", "/f");
  EXPECT_EQ(default_config_path(), "/f/accelerate/default_config.yaml");
  EXPECT_FALSE(Config().read_default_file());
}

// --- writing -------------------------------------------------------------------------------------

TEST(Config, WhatIsWrittenReadsBackTheSame) {
  const std::string folder = ::testing::TempDir();
  for (const auto& entry : std::filesystem::directory_iterator(kFolder)) {
    Config config;
    if (!error_of([&] { config.read_file(entry.path()); }).empty()) continue;
    for (const char* suffix : {".yaml", ".json"}) {
      const std::string path = folder + "/round" + std::to_string(getpid()) + suffix;
      config.write(path);
      Config again;
      again.read_file(path);
      for (const ConfigKey& key : config_keys())
        EXPECT_EQ(again.text(key.name), config.text(key.name)) << entry.path() << " " << key.name;
      EXPECT_EQ(again.to_yaml(), config.to_yaml());
      remove_file(path);
    }
  }
}

TEST(Config, WritesKeysSortedAndQuotesWhatYamlWouldTakeForSomethingElse) {
  Config config;
  config.read_text("distributed_type: NO\nmain_process_ip: '1234'\ngpu_ids: 0,1\n", "c");
  config.set_flag("mpirun_hostfile", "it's: here");
  config.check();
  EXPECT_EQ(config.to_yaml(),
            "compute_environment: LOCAL_MACHINE\n"
            "debug: false\n"
            "distributed_type: 'NO'\n"
            "downcast_bf16: false\n"
            "enable_cpu_affinity: false\n"
            "gpu_ids: '0,1'\n"
            "machine_rank: 0\n"
            "main_process_ip: '1234'\n"
            "mixed_precision: 'no'\n"
            "mpirun_config:\n"
            "  mpirun_hostfile: 'it''s: here'\n"
            "num_machines: 1\n"
            "num_processes: 1\n"
            "rdzv_backend: static\n"
            "same_network: false\n"
            "tpu_use_cluster: false\n"
            "tpu_use_sudo: false\n"
            "use_cpu: false\n");
}

}  // namespace
}  // namespace pinion::accel
