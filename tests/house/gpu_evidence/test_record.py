# SPDX-License-Identifier: Apache-2.0
"""Records: what follows from rounds, and that a record which says otherwise is refused."""

import copy
import unittest

import support
import record as records


class Derived(unittest.TestCase):
    def setUp(self):
        self.record = records.derive(support.fixture())
        self.goals = {g["id"]: g for g in self.record["goals"]}

    def test_medians_and_shares(self):
        row = records.row_of(self.record["bench"], "cross_entropy/bf16/8192x32768", "pinion")
        self.assertEqual(row["median_us"], 480)
        self.assertAlmostEqual(self.record["ceilings"]["copy_tbs"], 2.5)
        self.assertAlmostEqual(row["pct_bw"], 100 * 1073741824 / 480e-6 / 2.5e12)

    def test_a_ratio_is_the_median_of_neighbouring_rounds(self):
        pair = next(p for p in self.record["pairs"] if p["opponent"] == "torch")
        # 4800/480, 4800/470, 4800/490, 2400/480, 4800/480
        self.assertEqual((pair["ratio"], pair["ratio_min"], pair["rounds"]), (10, 5, 5))

    def test_goals_are_decided_by_what_they_need(self):
        self.assertEqual(self.goals["cross_entropy"]["state"], "PASS")  # 480 of at most 500
        self.assertEqual(self.goals["cross_entropy_torch"]["state"], "PASS")  # 10 of at least 5
        self.assertEqual(self.goals["adam"]["state"], "MISS")  # 0.8 of copies, 0.85 wanted
        self.assertEqual(self.goals["layer_norm_forward"]["state"], "PENDING")  # two rounds
        self.assertEqual(self.goals["fused_mlp_rate"]["state"], "PENDING")  # never timed

    def test_an_anchor_decides_where_there_is_no_pair(self):
        goal = {"id": "a", "bench": "cross_entropy/bf16/8192x32768", "metric": "ratio",
                "opponent": "elsewhere", "need": 3.0}  # fmt: skip
        self.assertEqual(records.goal_state(goal, self.record)["state"], "PENDING")
        anchor = {"id": goal["bench"], "impl": "elsewhere", "version": "1", "median_us": 960}
        self.record["anchors"] = [anchor]
        self.assertEqual(
            records.goal_state(goal, self.record),
            {"id": "a", "need": 3.0, "got": 2.0, "state": "MISS"},
        )

    def test_rounds_become_rows(self):
        rounds = [
            {"bench": [{"id": "a/f32/1", "impl": "pinion", "samples_us": s, "host_us": h}]}
            for s, h in (([1, 2, 9], 5), ([4, 5, 6], 4))
        ]
        (row,) = records.merge(rounds)
        self.assertEqual((row["rounds_us"], row["reps"], row["host_us"]), ([2, 5], 6, 4))
        self.assertEqual((row["p10"], row["p90"]), (1.5, 7.5))


class Refused(unittest.TestCase):
    def setUp(self):
        self.record = records.derive(support.fixture())

    def test_a_sound_record_is_not(self):
        self.assertEqual(records.problems(self.record), [])

    def expect_problem(self, text, change):
        record = copy.deepcopy(self.record)
        change(record)
        self.assertIn(text, "\n".join(records.problems(record)))

    def test_what_its_rounds_do_not_give(self):
        self.expect_problem("median_us", lambda r: r["bench"][0].update(median_us=1.0))
        self.expect_problem("ratio", lambda r: r["pairs"][0].update(ratio=99.0))
        self.expect_problem("pct_bw", lambda r: r["bench"][1].update(pct_bw=100.0))
        self.expect_problem("state", lambda r: r["goals"][0].update(state="PASS"))
        self.expect_problem("copy_tbs", lambda r: r["ceilings"].update(copy_tbs=9.0))

    def test_what_has_not_its_form(self):
        self.expect_problem("record.utc: expected a value", lambda r: r.pop("utc"))
        self.expect_problem("expected another type", lambda r: r["tests"].update(passed="3"))
        self.expect_problem("expected a list", lambda r: r.update(bench={}))
        self.expect_problem("expected 1, got 2", lambda r: r.update(schema=2))
        self.expect_problem("above 0", lambda r: r["bench"][0].update(rounds_us=[0]))

    def test_goals_of_another_time_are_left_alone(self):
        record = copy.deepcopy(self.record)
        record["goals"][0] |= {"need": 0.123, "state": "PASS"}
        self.assertEqual(records.problems(record), [])


class Sources(unittest.TestCase):
    def test_the_hash_follows_what_a_kernel_includes(self):
        import pathlib
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "kernels" / "cuda").mkdir(parents=True)
            kernel = root / "kernels" / "cuda" / "a.cu"
            includes = ('#include "pinion/kernels/f.h"', '#include "pinion/kernels/kernels.h"')
            kernel.write_text("\n".join(includes))
            (root / "kernels" / "f.h").write_text("one")
            (root / "kernels" / "kernels.h").write_text("one")
            first = records.source_hash(kernel, root)
            (root / "kernels" / "kernels.h").write_text("a declaration more")
            self.assertEqual(records.source_hash(kernel, root), first)
            (root / "kernels" / "f.h").write_text("two")
            self.assertNotEqual(records.source_hash(kernel, root), first)


if __name__ == "__main__":
    unittest.main()
