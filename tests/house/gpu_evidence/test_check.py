# SPDX-License-Identifier: Apache-2.0
"""A GPU check on a bundle whose programs only say that they have a device: what it records, and
what is left of it when something fails, hangs or has no time."""

import argparse
import json
import os
import pathlib
import select
import sys
import tempfile
import time
import unittest
from unittest import mock

import support
import bundle as bundles
import check
import children
import phases
import record as records

HANGS = "#!/bin/sh\nsleep 60\n"
NO_DEVICE = "#!/bin/sh\ncase $1 in --list) ;; *) echo no driver; exit 72 ;; esac\n"


class Flow(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.out = self.folder / "out"
        self.out.mkdir()

    def run_check(self, mode="full", budget=120, dry=False, **bundle):
        args = argparse.Namespace(mode=mode, dry_run=dry, budget=budget, python=sys.executable)
        args.anchor = None
        folder = support.fake_bundle(self.folder / "bundle", **bundle)
        with mock.patch("shutil.which", return_value=None):  # no tools of the toolkit
            with mock.patch.object(check.Check, "say", lambda self, text: None):
                status = check.Check(args, folder, self.out).run()
        record = json.loads((self.out / "results.json").read_text())
        self.assertEqual(records.problems(record), [])
        return status, record, {p["name"]: p for p in record["phases"]}

    def test_a_whole_check(self):
        status, record, done = self.run_check()
        self.assertEqual(status, 0, done)
        self.assertEqual(record["device"]["name"], "Fake device")
        self.assertEqual(record["tests"], {"passed": 2, "failed": 0, "skipped": 0, "list": []})
        self.assertEqual(done["nccl"]["why"], "1 passed, 0 skipped")
        self.assertEqual(done["sanitizer"]["why"], "compute-sanitizer is not here")
        row = records.row_of(record["bench"], "cross_entropy/bf16/8192x32768", "pinion")
        self.assertEqual(row["rounds_us"], [400.0] * records.ROUNDS)
        goals = {g["id"]: g["state"] for g in record["goals"]}
        self.assertEqual(goals["cross_entropy"], "PASS")
        self.assertEqual(goals["cross_entropy_torch"], "PENDING")

    def test_pytorch_that_fails_leaves_pinion_alone(self):
        with mock.patch.object(phases, "probe", with_torch):
            bench = [p for p in phases.PHASES if p[0] is phases.bench]
            steps = [(with_torch, 9, ("full",)), *bench, phases.PHASES[-1]]
            with mock.patch.object(phases, "PHASES", steps):
                status, record, done = self.run_check()
        self.assertEqual((status, done["bench"]["state"]), (0, "ok"))
        self.assertIn("5 rounds of 3 cases; round 0 of torch: expected", done["bench"]["why"])
        self.assertEqual(len(record["bench"]), 3)

    def test_a_test_that_fails_is_named(self):
        status, record, done = self.run_check("quick", tests=("cuda_broken_test.cpp",))
        self.assertEqual((status, done["correctness"]["state"]), (1, "failed"))
        self.assertEqual(record["tests"]["list"], ["Fake.Works"])
        self.assertNotIn("bench", done)

    def test_without_a_device_nothing_else_runs(self):
        status, record, done = self.run_check(bench=NO_DEVICE)
        self.assertEqual((status, done["probe"]["state"]), (72, "failed"))
        self.assertEqual({done[n]["why"] for n in ("correctness", "bench")}, {"no device"})
        self.assertEqual(done["report"]["state"], "ok")

    def test_what_hangs_is_ended(self):
        with mock.patch.object(phases, "PHASES", [(phases.bench, 2, ("full",)), phases.PHASES[-1]]):
            with mock.patch.object(check.Check, "run_phase", forced_device):
                status, _, done = self.run_check(bench=HANGS)
        self.assertEqual((status, done["bench"]["state"]), (1, "failed"))
        self.assertEqual(done["report"]["state"], "ok")

    def test_a_spent_budget_skips(self):
        _, _, done = self.run_check(budget=1)
        self.assertEqual(done["correctness"]["why"], "the budget is spent")


def with_torch(self, limit):
    """A probe that finds a PyTorch, which will then not start."""
    self.has_device = self.has_torch = True
    self.tools = {}
    return "ok", ""


original = check.Check.run_phase


def forced_device(self, phase, limit):
    self.has_device = True
    original(self, phase, limit)


class Libraries(unittest.TestCase):
    def test_a_linked_library_of_cuda_is_refused(self):
        bundles.check_linked("it", ["libc.so.6", "libfmt.so.9"])
        for name in ("libcuda.so.1", "libcublasLt.so.13", "libcudnn_graph.so.9", "libnccl.so.2"):
            with self.assertRaisesRegex(bundles.Failure, f"got {name}"):
                bundles.check_linked("it", ["libc.so.6", name])

    def test_a_library_that_does_not_load_is_given_up(self):
        refuses = '#!/bin/sh\n[ ! -e "$(dirname "$0")/../lib/libstdc++.so.6" ]\n'
        for program, kept in ((refuses, False), ("#!/bin/sh\n", True)):
            with tempfile.TemporaryDirectory() as folder:
                bundle = support.fake_bundle(pathlib.Path(folder) / "bundle", bench=program)
                (bundle / "lib").mkdir()
                library = bundle / "lib" / "libstdc++.so.6"
                library.write_text("")
                bundles.settle(bundle)
                self.assertEqual(library.exists(), kept)


def ended(pid):
    """Whether a process is gone, or goes within a minute."""
    try:
        with open(os.pidfd_open(pid), "rb") as process:
            return bool(select.select([process], [], [], 60)[0])
    except ProcessLookupError:
        return True


class Limits(unittest.TestCase):
    def test_a_child_ends_with_what_it_started(self):
        with tempfile.TemporaryDirectory() as folder:
            log = pathlib.Path(folder) / "log.txt"
            runner = children.Children(log, time.monotonic() + 60)
            alive = pathlib.Path(folder) / "alive"
            out = runner.run(["sh", "-c", "sleep 600 & echo $!; wait"], 3)
            self.assertIsNone(out.status)
            self.assertIn("past its limit", log.read_text())
            self.assertTrue(ended(int(out.last)))
            self.assertEqual(runner.run([folder + "/nothing"], 1).status, 127)


if __name__ == "__main__":
    unittest.main()
