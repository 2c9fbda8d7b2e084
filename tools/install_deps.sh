#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs with apt-get what a fresh Debian 12 lacks to build and test Pinion, and nothing else.
# Quick and silent about what is there already. As another user than root it goes through sudo.
# Usage: install_deps.sh [tidy]     tidy: also clang-tidy and clang-format
#        PINION_SKIP_DEPS=1 makes it do nothing, where the packages come from elsewhere.
set -euo pipefail

packages=(
  g++ cmake ninja-build
  libfmt-dev nlohmann-json3-dev libyaml-dev  # library: text, JSON, YAML
  nettle-dev                                 # library: HMAC of the store
  libdnnl-dev                                # library: large GEMMs on the CPU
  openmpi-bin libopenmpi-dev                 # ranks under mpirun
  libcli11-dev                               # programs: flags
  libpng-dev libjpeg62-turbo-dev             # programs: images
  libstemmer-dev                             # programs: stems of words
  libgtest-dev libgmock-dev                  # tests
  libbenchmark-dev                           # benchmarks
)
for argument in "$@"; do
  case "$argument" in
    tidy) packages+=(clang-tidy clang-format) ;;
    *) echo "install_deps.sh: expected nothing or 'tidy', got '$argument'" >&2; exit 64 ;;
  esac
done

if [ -n "${PINION_SKIP_DEPS:-}" ]; then
  echo "install_deps: skipped (PINION_SKIP_DEPS is set)"
  exit 0
fi
if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  echo "install_deps: this system has no apt-get; Pinion needs what Debian calls: ${packages[*]}"
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  [ "${status:0:2}" = ii ] || missing+=("$package")
done
if [ "${#missing[@]}" -eq 0 ]; then
  echo "install_deps: all ${#packages[@]} packages are installed"
  exit 0
fi

echo "install_deps: installing ${missing[*]}"
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps: expected root or sudo; as root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive LC_ALL=C \
    apt-get -q -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 "$@"
}
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The log is long and of interest only when something failed.
if ! { apt update && apt install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  echo "install_deps: apt-get failed" >&2
  exit 1
fi
echo "install_deps: done"
