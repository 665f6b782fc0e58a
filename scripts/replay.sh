#!/bin/bash
# Repeats a random test with the seed that it printed.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/replay.sh SEED [TEST]

Repeats the randomised tests with SEED, the number that a failed one printed. TEST is a part of the test's name;
without it every test that takes a seed runs.

Example:
  scripts/replay.sh 8151637741093 cluster_crash
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '' | *[!0-9]*) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
export CONTEXTOS_SEED=$1
# Worlds of the simulation are looked at as they were built when they failed.
case ${2:-} in
  every_world* | every_scenario*)
    exec cargo test --locked --profile simulation -p vfsd --test simulation -- --nocapture "$2"
    ;;
esac
cargo build --locked --workspace --bins
exec cargo test --locked --workspace -- --nocapture "${2:-}"
