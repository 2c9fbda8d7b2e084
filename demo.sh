#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# From a bare machine to a trained model: installs what is missing, builds simple_train, trains the
# toy classifier and says where the report is. Arguments are passed on: ./demo.sh --epochs 20
set -euo pipefail
cd "$(dirname "$0")"

tools/install_deps.sh
log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "building simple_train (the first time takes a few minutes)"
if ! { cmake --preset cpu && cmake --build --preset cpu --target simple_train; } >"$log" 2>&1; then
  tail -n 40 "$log" >&2
  exit 1
fi
build/cpu/simple_train "$@"
