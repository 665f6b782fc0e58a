#!/bin/bash
# Three members of an earlier build become members of this one, one after the other, under load.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/upgrade.sh [COMMIT]

Builds COMMIT (the last one from before clusters had levels, unless another is named) under target/upgrade, starts three
nodes of it on this machine, and upgrades member by member to the working tree while all three write and read. Looks at
what must hold: nothing acknowledged is lost, no reader sees an older document, members of both builds have equal
states, a lock survives, one step back works while a member of the earlier build is left, the newer rules count when
none is, and the earlier build refuses their data without changing it. Prints one line a phase and a summary. Two
minutes, and some more the first time. Needs root, and the commit in the clone (git fetch --unshallow).
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
  -*) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
wanted=${1:-0eeecdf}
# shellcheck source=lib/phase.sh
. scripts/lib/phase.sh
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
[ "$(id -u)" = 0 ] || fail "nodes are namespaces and mounts of this machine, which only root may make" "run it as root"
ensure_cargo
commit=$(git rev-parse --verify --quiet "$wanted^{commit}") ||
  fail "this clone has no commit $wanted" "git fetch --unshallow, or name another one"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
folder=$target/upgrade/${commit:0:7}
mkdir -p "$folder"
LOG=$folder/build.log
: >"$LOG"

# A commit never changes, so what is built of it stays.
build_earlier() {
  rm -rf "$folder/source"
  mkdir "$folder/source"
  git archive "$commit" | tar -x -C "$folder/source"
  (cd "$folder/source" && CARGO_TARGET_DIR=$folder/target cargo build --locked -p vfsd --bin vfsd)
}

[ -e "$folder/built" ] || phase "build of the earlier commit ${commit:0:7}" build_earlier
touch "$folder/built"
phase "build" cargo build --locked --workspace --bins
exec "$target/debug/upgrade" --earlier "$folder/target/debug/vfsd" --unit "$folder/source/vfsd/systemd/vfsd.service"
