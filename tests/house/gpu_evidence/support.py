# SPDX-License-Identifier: Apache-2.0
"""What the tests of the GPU tools share: the way to the tools, and made-up things for them to read.
No figure in here is of a device."""

import importlib.machinery
import importlib.util
import json
import pathlib
import sys

sys.dont_write_bytecode = True
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent.parent
sys.path.insert(0, str(ROOT / "tools" / "gpu"))


def script(name):
    """A tool without a suffix, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    loader.exec_module(module)
    return module


def fixture():
    """A record with rounds of made-up times, nothing derived yet."""
    return json.loads((pathlib.Path(__file__).parent / "fixture_record.json").read_text())


# A program of a fake bundle that behaves like pinion_gpu_bench on a device.
FAKE_BENCH = """#!/usr/bin/env python3
import json, sys
flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
cases = [["ceiling_copy/f32/268435456", 2147483648], ["cross_entropy/bf16/8192x32768", 1073741824],
         ["ceiling_launch/f32/1", 0]]
rows = [{"id": i, "impl": "pinion", "dtype": i.split("/")[1], "shape": i.split("/")[2], "bytes": b,
         "flops": 0, "cold": b, "host_us": 3.0, "samples_us": [400.0, 401.0, 399.0]}
        for i, b in cases if flags.get("filter", "") in i]
out = {"impl": "pinion", "device": {"name": "Fake device"}, "bench": rows}
open(flags["out"], "w").write(json.dumps(out))
"""
FAKE_TESTS = """#!/usr/bin/env python3
import json, sys
flags = dict(a.lstrip("-").partition("=")[::2] for a in sys.argv[1:])
test = {"name": "Works", "result": "COMPLETED"}
if "broken" in flags["test_file"]:
    test["failures"] = [{"failure": "1 is not 2"}]
suite = {"name": "Fake", "testsuite": [test]}
open(flags["gtest_output"].removeprefix("json:"), "w").write(json.dumps({"testsuites": [suite]}))
"""
FAKE_TRAIN = """#!/bin/sh
for last; do :; done
mkdir -p "$last" && echo weights >"$last/model.safetensors"
"""


def fake_bundle(folder, tests=("cuda_fake_test.cpp",), bench=FAKE_BENCH):
    """A bundle whose programs are scripts that say they have a device."""
    programs = {"pinion_gpu_bench": bench, "pinion_tests": FAKE_TESTS, "simple_train": FAKE_TRAIN}
    (folder / "bin").mkdir(parents=True)
    for name, text in programs.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    (folder / "bench" / "peers").mkdir(parents=True)
    peer = ROOT / "bench" / "peers" / "gpu_peer.py"
    (folder / "bench" / "peers" / "gpu_peer.py").write_text(peer.read_text())
    manifest = {
        "git": {"sha": "0" * 40, "dirty": False, "source_hash": {}},
        "toolchain": {"nvcc": "none"},
        "build": {"ptxas": []},
        "tests": list(tests),
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
