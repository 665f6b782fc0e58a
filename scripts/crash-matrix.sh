#!/bin/bash
# Something dies at every boundary of every step of a PostgreSQL deployment. Takes half an hour.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/crash-matrix.sh [--isolated] [--only TEXT]

Deploys, grows and changes PostgreSQL on three nodes of this machine. At every boundary of every step (before and after
`started`, after the effect, after `succeeded`) something dies: the agent, vfsd or the power of the node. Each case must
end Active with one primary, every acknowledged row and the settings of a run in which nothing dies. One line a case.
  --isolated    a deployment from nothing for each boundary, with one death in it: about four hours
  --only TEXT   only cases whose line contains TEXT, for example: --only grow, or --only "deploy power"
TEXT
}

for argument; do
  case $argument in
    -h | --help) usage; exit 0 ;;
  esac
done
cd "$(dirname "$0")/.."
cargo build --locked --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/debug/crash_matrix" "$@"
