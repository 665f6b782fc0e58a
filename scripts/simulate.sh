#!/bin/bash
# Looks at many simulated worlds, built with optimisation.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/simulate.sh [WORLDS]

Runs the simulation of whole clusters (docs/TESTING.md) for the seeds 0 to WORLDS, 2000 if not said: six a second on
each core. Built with the profile "simulation", which takes some minutes the first time. One world alone, with its
trace: scripts/replay.sh SEED every_world
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  *[!0-9]*) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
export CONTEXTOS_SIMULATED_WORLDS=${1:-2000}
exec cargo test --locked --profile simulation -p vfsd --test simulation -- every_ --nocapture
