#!/bin/bash
# Something dies at every boundary of every step of a PostgreSQL deployment. Takes hours.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/crash-matrix.sh [--only TEXT]

Deploys, grows and changes PostgreSQL on three nodes of this machine once for every step, every boundary of the step
(before and after `started`, after the effect, after `succeeded`) and every kind of death (agent, vfsd, power of the
node), and checks each time that it ends Active with one primary and every acknowledged row. One line a case.
  --only TEXT   only cases whose line contains TEXT, for example: --only "grow" or --only "after-effect power"
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  '' | --only) ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
cargo build --locked --workspace --bins
exec "${CARGO_TARGET_DIR:-target}/debug/crash_matrix" "$@"
