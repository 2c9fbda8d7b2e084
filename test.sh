#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Builds and runs every test of one or more presets; ends with the summary of ctest.
# Usage: ./test.sh [cpu|debug|tsan|tidy|cuda|all]...      default: cpu
set -euo pipefail
cd "$(dirname "$0")"

presets=()
for argument in "${@:-cpu}"; do
  case "$argument" in
    cpu | debug | tsan | tidy | cuda) presets+=("$argument") ;;
    all)
      presets+=(cpu debug tsan tidy)
      if command -v "${CUDACXX:-nvcc}" >/dev/null; then
        presets+=(cuda)
      else
        echo "test.sh: no nvcc, so the cuda preset is left out"
      fi
      ;;
    *) echo "test.sh: expected cpu, debug, tsan, tidy, cuda or all, got '$argument'" >&2; exit 64 ;;
  esac
done

extra=()
[[ " ${presets[*]} " == *" tidy "* ]] && extra=(tidy)
tools/install_deps.sh "${extra[@]}"
for preset in "${presets[@]}"; do
  echo "== $preset"
  cmake --preset "$preset"
  cmake --build --preset "$preset"
  ctest --preset "$preset" --parallel "$(nproc)"
done
