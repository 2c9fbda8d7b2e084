#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Holds the order of the folders: a folder includes only itself and folders to its left, and nobody
# includes apps, tests or bench but the last two. Own headers are spelled "pinion/folder/file.h".
# Usage: layering_test.sh ROOT
set -euo pipefail
cd "${1:?usage: layering_test.sh ROOT}"
order=(kernels runtime nn optim dist accel apps)
wrong=0
allowed=""
for folder in "${order[@]}"; do
  allowed="${allowed:+$allowed|}$folder"
  [ -d "$folder" ] || continue
  # Every quoted include, and every <pinion/…>; the good ones are taken out, the rest is wrong.
  found=$(grep -rnE --include='*.h' --include='*.cpp' --include='*.cu' --include='*.cuh' \
            '^[[:space:]]*#[[:space:]]*include[[:space:]]*("|<pinion/)' "$folder" |
          grep -vE "include[[:space:]]*\"pinion/($allowed)/[^\"]*\"" || true)
  if [ -n "$found" ]; then
    echo "$folder may include only \"pinion/{${allowed//|/,}}/...\":"
    echo "$found"
    wrong=1
  fi
done
exit $wrong
