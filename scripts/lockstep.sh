#!/bin/bash
# The same random calls on the mounted tree and on ext4, every answer compared. For an hour, unless told otherwise.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/lockstep.sh [--seconds N] [--seed S] [--calls N] [--workers N] [--differences N]
       [--without TEXT]...

Runs random sequences of calls by several processes with several handles on a mounted node and on an ext4, in lockstep:
every answer is compared, and in the end everything that is there, on a second node too. Beside it, calls that keep
nothing open, made by turns on two nodes. A sequence that differs is made as short as it can be and printed with both
answers and its seed. Needs root and /dev/fuse. Exit status 0 if nothing differed, 1 if something did.
  --seconds N      how long (default 3600)
  --seed S         the seed of the first sequence; each one after it has the next number (default: a random one)
  --calls N        calls of a sequence (default 60)
  --workers N      processes, 1 to 3 (default: 1 or 3, by the seed)
  --differences N  ends after so many different ones (default 20)
  --without TEXT   leaves out calls that contain TEXT, such as --without ' truncate ', to see what lies behind a fault
                   that is known
TEXT
}

export CONTEXTOS_LOCKSTEP_SECONDS=3600 CONTEXTOS_LOCKSTEP_DIFFERENCES=20
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --seconds | --seed | --calls | --workers | --differences)
      case ${2:-} in
        '' | *[!0-9]*) usage >&2; exit 2 ;;
      esac
      ;;
    --without) [ -n "${2:-}" ] || { usage >&2; exit 2; } ;;
    *) usage >&2; exit 2 ;;
  esac
  case $1 in
    --seconds) CONTEXTOS_LOCKSTEP_SECONDS=$2 ;;
    --seed) export CONTEXTOS_SEED=$2 ;;
    --calls) export CONTEXTOS_LOCKSTEP_CALLS=$2 ;;
    --workers) export CONTEXTOS_LOCKSTEP_WORKERS=$2 ;;
    --differences) CONTEXTOS_LOCKSTEP_DIFFERENCES=$2 ;;
    --without) export CONTEXTOS_LOCKSTEP_WITHOUT="${CONTEXTOS_LOCKSTEP_WITHOUT:-};$2" ;;
  esac
  shift 2
done
cd "$(dirname "$0")/.."
exec cargo test --locked -p vfsd --test mount random_calls -- --nocapture
