#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Holds the promise of kernels/cpu/rung.h: what an object of a rung defines for others is in the
# namespace of that rung. A function outside it, compiled with AVX-512 flags, could be the copy that
# the linker keeps for every CPU.
# Usage: rung_symbols_test.sh NM LIST_OF_OBJECTS
set -euo pipefail
nm=${1:?usage: rung_symbols_test.sh NM LIST_OF_OBJECTS}
list=${2:?usage: rung_symbols_test.sh NM LIST_OF_OBJECTS}
wrong=0
objects=0
defined=0
while IFS= read -r object; do
  [ -n "$object" ] || continue
  objects=$((objects + 1))
  rung=$(sed -nE 's|.*/pinion_(rung_[a-z0-9]+)\.dir/.*|\1|p' <<<"$object")
  [ -n "$rung" ] || { echo "no rung in the path $object"; wrong=1; continue; }
  # Global and weak definitions. DW.ref.* is the compiler's pointer to its exception handler: data.
  symbols=$("$nm" --defined-only --extern-only --format=posix "$object" |
            awk '$2 ~ /^[A-Zu]$/ {print $1}' | grep -v '^DW\.ref\.' || true)
  defined=$((defined + $(grep -c . <<<"$symbols" || true)))
  # Mangling writes the length of a name before it: 9rung_avx2.
  stray=$(grep -v "${#rung}${rung}" <<<"$symbols" | grep . || true)
  if [ -n "$stray" ]; then
    echo "$object defines outside of $rung:"
    c++filt <<<"$stray" | sed 's/^/  /'
    wrong=1
  fi
done <"$list"
[ "$objects" -gt 0 ] && [ "$defined" -gt 0 ] || { echo "no symbol found to check"; wrong=1; }
echo "$defined symbols in $objects objects"
exit $wrong
