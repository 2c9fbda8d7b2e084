#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Tests the tools behind what is said about the CUDA kernels (tools/kernel_budgets, tools/gpu_check,
# tools/performance_page), and holds docs/performance.md to what it is made of. Needs python3.
# Usage: gpu_evidence_test.sh ROOT
set -euo pipefail
root=${1:?usage: gpu_evidence_test.sh ROOT}
if ! command -v python3 >/dev/null; then
  echo "python3 is not installed: the tools are not tested"
  exit 77
fi
cd "$root"
python3 -B -m unittest discover -s tests/house/gpu_evidence -p 'test_*.py'
tools/performance_page --check
