#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Rehearses a GPU check: the bundle is made, moved and run as far as this machine goes, and
# bench/gpu/cases.json is what the benchmark says it times.
# Usage: gpu_check_test.sh ROOT BUILD
set -euo pipefail
root=${1:?usage: gpu_check_test.sh ROOT BUILD}
build=${2:?usage: gpu_check_test.sh ROOT BUILD}
for tool in python3 strip ldd tar; do
  if ! command -v "$tool" >/dev/null; then
    echo "$tool is not installed: the check is not rehearsed"
    exit 77
  fi
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$build/pinion_gpu_bench" --list >"$work/cases.json"
if ! cmp "$root/bench/gpu/cases.json" "$work/cases.json"; then
  echo "bench/gpu/cases.json: expected what pinion_gpu_bench --list says; write it again"
  exit 1
fi
"$root/tools/gpu_check" --make-bundle "$work/bundle.tar.gz" --build "$build"
# From a folder that is not the tree's: what the programs need must have come along.
mkdir "$work/elsewhere"
tar -C "$work/elsewhere" -xf "$work/bundle.tar.gz"
cd "$work/elsewhere"
status=0
pinion-gpu-check/tools/gpu_check --dry-run --out "$work/out" | tee "$work/said" || status=$?
if [ "$status" -ne 0 ]; then
  tail -n 60 "$work/out/log.txt"
  exit 1
fi
grep -q '^dry run: all well; the bundle has [0-9.]* MiB$' "$work/said"
