#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Holds the rules of CONTRIBUTING.md that a script can see: length of files and lines, licence line,
# no tabs or trailing blanks, no notes to self, and clang-format where it is installed.
# Usage: style_test.sh ROOT
set -euo pipefail
cd "${1:?usage: style_test.sh ROOT}"
max_lines=600
max_columns=100
wrong=0

say() {  # say "what was expected" "$findings"
  [ -n "$2" ] || return 0
  echo "$1:"
  sed 's/^/  /' <<<"$2"
  wrong=1
}

folders=(kernels runtime nn optim dist accel apps bench tests cmake tools docs configs)
for i in "${!folders[@]}"; do [ -d "${folders[i]}" ] || unset "folders[i]"; done
mapfile -t code < <(find pinion.h "${folders[@]}" -type f \
  \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) | sort)
mapfile -t scripts < <(
  find . -maxdepth 1 -name '*.sh' -printf '%P\n'
  find .ci CMakeLists.txt "${folders[@]}" -type f \
  \( -name '*.sh' -o -name '*.py' -o -name '*.cmake' -o -name 'CMakeLists.txt' -o -path .ci/run \) |
  sort)
[ "${#code[@]}" -gt 0 ] || { echo "no source file found"; exit 1; }
all=("${code[@]}" "${scripts[@]}")
library=()
for folder in kernels runtime nn optim dist accel; do
  [ ! -d "$folder" ] || library+=("$folder")
done

say "a file has at most $max_lines lines" \
  "$(wc -l "${all[@]}" | awk -v max=$max_lines '$2 != "total" && $1 > max')"
say "a line has at most $max_columns columns" \
  "$(LC_ALL=C.UTF-8 grep -nPo "^.{$max_columns}.+" "${all[@]}" | cut -c 1-80 || true)"
say "the first line is // SPDX-License-Identifier: Apache-2.0" "$(for f in "${code[@]}"; do
  [ "$(head -n 1 "$f")" = "// SPDX-License-Identifier: Apache-2.0" ] || echo "$f"
done)"
say "the first lines hold # SPDX-License-Identifier: Apache-2.0" "$(for f in "${scripts[@]}"; do
  head -n 2 "$f" | grep -qxF "# SPDX-License-Identifier: Apache-2.0" || echo "$f"
done)"
say "no tab, no trailing blank" "$(grep -nP '\t|[ \t]+$' "${all[@]}" || true)"
say "no TO""DO or FIX""ME" "$(grep -nE '\b(TO''DO|FIX''ME)\b' "${all[@]}" || true)"
say "no <iostream>, <sstream> or fmt in a header of the library" \
  "$(grep -rnE --include='*.h' 'include <(iostream|sstream|fmt/)' "${library[@]}" || true)"
say "a header opens with #pragma once or a guard" "$(for f in "${code[@]}"; do
  case "$f" in
    *.h | *.cuh) grep -qE '^#(pragma once|if defined|ifndef)' "$f" || echo "$f" ;;
  esac
done)"
if command -v clang-format >/dev/null; then
  say "clang-format -i changes nothing" "$(clang-format --dry-run "${code[@]}" 2>&1 |
    sed -nE 's/^([^ :]+:[0-9]+):.*(warning|error).*/\1/p' | sort -u -t: -k1,1 || true)"
else
  echo "clang-format is not installed: formatting is not checked"
fi
exit $wrong
