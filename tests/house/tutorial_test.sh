#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs the commands of docs/tutorial.md ("$ command" in console blocks), one after another in an
# empty folder: each must end with code 0, or with N where "# exit N" follows, and must print the
# lines under it in their order ("…" stands for any number of lines).
# Usage: tutorial_test.sh ROOT BUILD_FOLDER
set -euo pipefail
root=$(realpath "${1:?usage: tutorial_test.sh ROOT BUILD_FOLDER}")
build=$(realpath "${2:?usage: tutorial_test.sh ROOT BUILD_FOLDER}")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
mkdir build && ln -s "$build" build/cpu && ln -s "$root/configs" configs
export CUDA_VISIBLE_DEVICES=  # the tutorial's machine has no GPU
command="" expected=() commands=0 wrong=0

fail() {
  printf 'tutorial: %s\n  expected: %s\n  it printed:\n' "$command" "$1"
  sed 's/^/    /' output
  wrong=1
}

# Runs the command that was read last and compares.
check() {
  [ -n "$command" ] || return 0
  local code=0 wanted=0 line gap=0
  [[ $command =~ \#\ exit\ ([0-9]+)$ ]] && wanted=${BASH_REMATCH[1]}
  bash -c "$command" >output 2>&1 </dev/null || code=$?
  commands=$((commands + 1))
  [ "$code" = "$wanted" ] || fail "exit code $wanted, got $code"
  exec 3<output
  for line in "${expected[@]}"; do
    if [ "$line" = "…" ]; then gap=1; continue; fi
    local found=0 got
    while IFS= read -r got <&3; do
      if [ "$got" = "$line" ]; then found=1; break; fi
      [ "$gap" = 1 ] || break
    done
    [ "$found" = 1 ] || { fail "$line"; break; }
    gap=0
  done
  exec 3<&-
  command="" expected=()
}

inside=0
while IFS= read -r text; do
  case "$inside$text" in
    '0```console') inside=1 ;;
    '1```') check; inside=0 ;;
    '1$ '*) check; command=${text#'$ '} ;;
    1*) expected+=("$text") ;;
  esac
done <"$root/docs/tutorial.md"
if [ "$commands" -lt 10 ]; then
  echo "expected ten or more commands in docs/tutorial.md, found $commands"
  wrong=1
fi
exit $wrong
