# SPDX-License-Identifier: Apache-2.0
"""The reports of ptxas and the PTX: that they are read, and that a broken promise is named."""

import json
import pathlib
import tempfile
import unittest

import support
import ptxas

budgets_tool = support.script("kernel_budgets")
SPACE = "6pinion7kernels4cuda46_GLOBAL__N__34069020_13_layer_norm_cu_eb05239c"
NAME = f"_ZN{SPACE}4rowsIfLi256EEEvPKT_l"
REPORT = f"""ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '{NAME}' for 'sm_80'
ptxas info    : Function properties for {NAME}
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 64 bytes smem, 392 bytes cmem[0]
ptxas info    : Compile time = 22.581 ms
ptxas info    : Compiling entry function '{NAME}' for 'sm_90a'
ptxas info    : Function properties for {NAME}
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 31 registers, used 0 barriers, 392 bytes cmem[0]
"""
PTX = f"""// Cuda compilation tools, release 13.0, V13.0.88
.target sm_90a
.entry {NAME}(
\t.param .u64 p
)
{{
\tld.global.v4.f32 \t{{%f1, %f2, %f3, %f4}}, [%rd1];
\tatom.global.add.f32 \t%f5, [%rd2], %f1;
}}
"""


class Build(unittest.TestCase):
    """A build folder with one object."""

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        objects = pathlib.Path(self.folder.name) / "CMakeFiles/pinion.dir/kernels/cuda"
        objects.mkdir(parents=True)
        self.object = objects / "rows.cu.o"
        self.object.write_text("")
        (objects / "rows.cu.o.ptxas").write_text(REPORT)
        (objects / "rows.cu.o.sm_90a.ptx").write_text(PTX)

    def built(self):
        return ptxas.reports(self.folder.name, ["rows.cu"])

    def test_the_report_is_read(self):
        fields = self.built()["rows.cu"]["rows<float, 256>"]
        self.assertEqual(
            fields["sm_80"], {"registers": 40, "spill": 16, "stack": 8, "shared": 64}
        )
        self.assertEqual(fields["sm_90a"], {"registers": 31, "spill": 0, "stack": 0, "shared": 0})
        self.assertEqual(ptxas.compiler(self.folder.name, "rows.cu"), "13.0.88")

    def test_a_missing_report_is_an_error(self):
        with self.assertRaisesRegex(ptxas.Failure, "other.cu: expected its report"):
            ptxas.reports(self.folder.name, ["other.cu"])
        self.object.with_name("rows.cu.o.ptxas").write_text(REPORT.replace("Used 31", "Used"))
        with self.assertRaisesRegex(ptxas.Failure, "expected the registers"):
            self.built()

    def wrong(self, budget):
        budgets = {"rows.cu": {"rows<float, 256>": budget}}
        return budgets_tool.compare(budgets, self.built(), slack=4)

    def test_a_budget_that_is_kept(self):
        self.assertEqual(self.wrong({"sm_80": [40, 16, 8, 64], "sm_90a": [31, 0, 0, 0]}), [])
        self.assertEqual(self.wrong({"sm_80": [36, 16, 8, 64], "sm_90a": [31, 0, 0, 0]}), [])

    def test_what_takes_more_is_named(self):
        rest = {"sm_90a": [31, 0, 0, 0]}
        for budget, said in (
            ([35, 16, 8, 64], "budgeted 35 registers, got 40"),
            ([40, 0, 8, 64], "budgeted 0 bytes of spill, got 16"),
            ([40, 16, 0, 64], "budgeted 0 bytes of stack, got 8"),
            ([40, 16, 8, 32], "budgeted 32 bytes of shared, got 64"),
        ):
            (line,) = self.wrong({"sm_80": budget, **rest})
            self.assertEqual(line, f"rows.cu: rows<float, 256> on sm_80: {said}")

    def test_kernels_and_budgets_go_together(self):
        self.assertIn("on sm_90a: expected a budget", self.wrong({"sm_80": [40, 16, 8, 64]})[0])
        kept = {"sm_80": [40, 16, 8, 64], "sm_90a": [31, 0, 0, 0]}
        budgets = {"rows.cu": {"rows<float, 256>": kept, "gone": {"sm_80": [9, 0, 0, 0]}}}
        (line,) = budgets_tool.compare(budgets, self.built(), slack=4)
        self.assertEqual(line, "rows.cu: gone: a budget for sm_80, but no kernel")

    def broken(self, **promise):
        return budgets_tool.broken_promises(
            [{"why": "so", "kernels": "^rows<", **promise}], self.folder.name, ["rows.cu"]
        )

    def test_promises(self):
        self.assertEqual(self.broken(has=r"ld\.global\.v4"), [])
        self.assertIn("expected mma, found none", self.broken(has="mma")[0])
        (line,) = self.broken(never=r"atom\.[a-z.]*\.f32")
        self.assertIn("rows.cu: rows<float, 256> on sm_90a", line)
        self.assertIn("got atom.global.add.f32", line)
        self.assertIn("expected a kernel ^none", self.broken(kernels="^none")[0])

    def test_what_is_written_is_kept(self):
        budgets = json.loads(budgets_tool.text_of(self.built(), "13.0.88"))
        self.assertEqual(budgets_tool.compare(budgets["kernels"], self.built(), 0), [])


class Names(unittest.TestCase):
    def test_short(self):
        space = "pinion::kernels::cuda::(anonymous namespace)::"
        for long, short in (
            (f"void {space}f<pinion::Half, 2>(long, float*)", "f<Half, 2>"),
            (f"{space}add_blocks({space}Plan, int)", "add_blocks"),
            (f"void {space}g<{space}F<int (*)(int)> >(int)", "g<F<int (*)(int)> >"),
        ):
            self.assertEqual(ptxas.short(long), short)


if __name__ == "__main__":
    unittest.main()
