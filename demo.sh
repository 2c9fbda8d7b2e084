#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a bare machine to trained models: installs what is missing, builds the programs, trains the
# toy classifier, then the report generator on drawn chest films with two ranks, and says where
# the reports are. Arguments are passed to the generator: ./demo.sh --epochs 24
set -euo pipefail
cd "$(dirname "$0")"

tools/install_deps.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
programs=(simple_train pinion_cli make_cxr train_with_accelerate)
echo "building ${programs[*]} (the first time takes a few minutes)"
build() {
  cmake --preset cpu && cmake --build --preset cpu --target "${programs[@]}"
}
if ! build >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  exit 1
fi

echo "== A small classifier"
build/cpu/simple_train --output_dir run/toy

echo "== A generator of radiology reports, on two ranks"
build/cpu/make_cxr --output_dir run/cxr
# bf16 where the CPU multiplies it in hardware
precision=no
grep -qw avx512_bf16 /proc/cpuinfo 2>/dev/null && precision=bf16
build/cpu/pinion launch --cpu --num_processes 2 --mixed_precision "$precision" \
  build/cpu/train_with_accelerate --preset nano --batch_size 8 \
  --image_dir run/cxr/images --ann_path run/cxr/annotation.json \
  --save_dir run/report --record_dir run/records "$@"
