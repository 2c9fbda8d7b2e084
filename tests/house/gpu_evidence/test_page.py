# SPDX-License-Identifier: Apache-2.0
"""docs/performance.md: what its generator makes of a record, a made-up one that no page shows."""

import copy
import json
import pathlib
import tempfile
import unittest

import support
import performance
import record as records


class Page(unittest.TestCase):
    def evidence(self, *entries):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        (pathlib.Path(folder.name) / "fixture").mkdir()
        for record in entries:
            path = pathlib.Path(folder.name) / "fixture" / f"{record['utc']}-0123456.json"
            path.write_text(json.dumps(record))
        return performance.Evidence(support.ROOT, pathlib.Path(folder.name))

    def record(self, utc="20000101T000000Z", **stale):
        record = records.derive(support.fixture())
        record["utc"] = utc
        record["git"]["source_hash"] = records.source_hashes() | stale
        return record

    def states(self, page):
        lines = [line for line in page.splitlines() if line.startswith("| ")]
        return {line.split(" | ")[0][2:]: line.split(" | ")[4] for line in lines}

    def test_states_of_goals(self):
        page = performance.page(self.evidence(self.record()))
        states = self.states(page)
        self.assertEqual(states["cross-entropy and its gradient, bf16 8192 x 32768"], "PASS")
        self.assertEqual(states["Adam with amsgrad, 78.5 M parameters"], "MISS")
        self.assertEqual(states["layer norm forward, 128 MiB"], "PENDING")
        self.assertIn("| 480 | 470 to 490 |", page)
        self.assertIn("10 (5 to 10.2) torch", page)
        self.assertNotIn("nothing on this page has run", page)

    def test_a_changed_kernel_makes_a_goal_stale(self):
        states = self.states(performance.page(self.evidence(self.record(**{"optim.cu": "old"}))))
        self.assertEqual(states["Adam with amsgrad, 78.5 M parameters"], "STALE")
        self.assertEqual(states["cross-entropy and its gradient, bf16 8192 x 32768"], "PASS")

    def test_the_newest_record_decides(self):
        later = self.record("20000102T000000Z")
        row = records.row_of(later["bench"], "cross_entropy/bf16/8192x32768", "pinion")
        row["rounds_us"] = [600] * records.ROUNDS
        page = performance.page(self.evidence(records.derive(later), self.record()))
        self.assertEqual(
            self.states(page)["cross-entropy and its gradient, bf16 8192 x 32768"], "MISS"
        )

    def test_a_kernel_is_tested_by_a_record_of_its_source(self):
        def state(record):
            return performance.gpu_state(self.evidence(record), "softmax.cu")

        self.assertEqual(state(self.record()), "PASS")
        self.assertEqual(state(self.record(**{"softmax.cu": "old"})), "STALE")
        failed = copy.deepcopy(self.record())
        failed["tests"] |= {"failed": 1}
        self.assertEqual(state(failed), "MISS")
        untested = copy.deepcopy(self.record())
        untested["tests"] |= {"passed": 0}
        self.assertEqual(state(untested), "PENDING")

    def test_the_fixture_is_not_on_the_page(self):
        page = (support.ROOT / "docs" / "performance.md").read_text()
        self.assertNotIn(support.fixture()["device"]["name"], page)
        self.assertEqual(list((support.ROOT / "bench/results/gpu").glob("**/*ixture*")), [])


class Tree(unittest.TestCase):
    """What the page is made of goes together."""

    def setUp(self):
        self.evidence = performance.Evidence(support.ROOT)

    def test_goals_are_about_cases_and_kernels_that_are_there(self):
        sources = set(self.evidence.hashes)
        for goal in self.evidence.goals:
            self.assertIn(goal["bench"], self.evidence.cases)
            self.assertLessEqual(set(goal["sources"]), sources)
            self.assertIn(goal["metric"], performance.METRICS)

    def test_kernels_are_timed_by_cases_that_are_there(self):
        for kernel, case in self.evidence.kernels["case"].items():
            source, name = kernel.split()
            self.assertIn(case, self.evidence.cases)
            forms = self.evidence.budgets["kernels"][source]
            self.assertTrue(any(f.split("<")[0] == name for f in forms), kernel)

    def test_pytorch_knows_the_cases_of_goals(self):
        import importlib.util

        path = support.ROOT / "bench" / "peers" / "gpu_peer.py"
        spec = importlib.util.spec_from_file_location("gpu_peer", path)
        peer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(peer)
        for goal in self.evidence.goals:
            if goal.get("opponent", "").startswith("torch"):
                self.assertTrue(hasattr(peer.Cases, goal["bench"].split("/")[0]), goal["id"])

    def test_every_kernel_file_has_tests_on_the_simulator(self):
        for source in self.evidence.budgets["kernels"]:
            self.assertGreater(sum(performance.simulator_cases(self.evidence, source)), 0, source)


class Numbers(unittest.TestCase):
    def test_three_digits(self):
        for value, text in ((0, "0"), (0.001234, "0.00123"), (9.996, "10"), (1234.5, "1234"),
                            (85.0, "85"), (None, "—")):  # fmt: skip
            self.assertEqual(performance.number(value), text)


if __name__ == "__main__":
    unittest.main()
