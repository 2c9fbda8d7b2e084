#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Holds the kernels of a build with nvcc to kernels/budgets.json and kernels/ptx_promises.json.
# Usage: kernel_budgets_test.sh ROOT BUILD
set -euo pipefail
root=${1:?usage: kernel_budgets_test.sh ROOT BUILD}
build=${2:?usage: kernel_budgets_test.sh ROOT BUILD}
if ! command -v python3 >/dev/null; then
  echo "python3 is not installed: budgets are not checked"
  exit 77
fi
"$root/tools/kernel_budgets" --build "$build"
