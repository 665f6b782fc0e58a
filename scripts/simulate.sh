#!/bin/bash
# Looks at many simulated worlds, built with optimisation.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/simulate.sh [WORLDS]

Runs the simulation of whole clusters (docs/TESTING.md) for the seeds 0 to WORLDS, 2000 if not said: five a second on
each core. Built with optimisation under target/simulation, which takes some minutes the first time.
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  *[!0-9]*) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/simulation CARGO_PROFILE_DEV_OPT_LEVEL=1 CARGO_PROFILE_DEV_DEBUG=0
export CONTEXTOS_SIMULATED_WORLDS=${1:-2000}
exec cargo test --locked -p vfsd --test simulation every_world_holds
