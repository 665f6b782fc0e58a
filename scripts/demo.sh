#!/bin/bash
# Three nodes on this machine, and a replicated PostgreSQL by writing one file.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/demo.sh [OPERATION]

Without an operation: installs what is missing, builds, starts the nodes n1 n2 n3, writes a wish on n2 and shows
how it becomes a replicated PostgreSQL. A second run changes nothing.

Operations on the running nodes:
  up              three nodes and the cluster, nothing deployed
  shell n2        a shell in a node
  exec n2 CMD...  a command in a node: its exit status and its output, nothing added
  kill n2         cut its power (what it did not sync is lost)        boot n2    start it again
  cut n2          cut its network cable                               heal n2    mend it
  freeze n2       stop all its processes                              thaw n2    let them go on
  add n4          start an empty node that joins by a token
  down            take everything away
  --single        one node, no namespaces: mounts the filesystem in a folder until Ctrl-C
  --help          this text

Needs Debian 12, root and Rust. Examples:
  scripts/demo.sh
  scripts/demo.sh exec n2 cat /vfs/run/mid/shop-db/status.txt
  scripts/demo.sh kill n2 && scripts/demo.sh boot n2
TEXT
}

cd "$(dirname "$0")/.."
# shellcheck source=lib/phase.sh
. scripts/lib/phase.sh
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh

TESTHOSTS=${CARGO_TARGET_DIR:-target}/release/testhosts
operation=${1:-demo}
case $operation in
  -h | --help | help) usage; exit 0 ;;
  --single) operation=single ;;
esac
[ "$(id -u)" = 0 ] || fail "nodes are namespaces and mounts of this machine, which only root may make" "run it as root"
case $operation in
  demo | up | single) ;;
  shell | exec | kill | boot | add | cut | heal | freeze | thaw | down)
    [ -x "$TESTHOSTS" ] || fail "nothing is built yet" "run scripts/demo.sh first"
    exec "$TESTHOSTS" "$@"
    ;;
  *) usage >&2; exit 2 ;;
esac

LOG=${CONTEXTOS_DEMO_LOG:-/var/log/contextos-demo.log}
: >"$LOG"
export CONTEXTOS_DEMO_LOG=$LOG
# shellcheck disable=SC2086 # One word is one package.
ensure_packages $BUILD_PACKAGES $NODE_PACKAGES
ensure_cargo
phase "build" cargo build --release --locked --bin vfsd --bin dsm-agent --bin testhosts
exec "$TESTHOSTS" "$operation" "${@:2}"
