#!/bin/bash
# Installs vfsd and dsm-agent with their units on this machine. Starts nothing.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/install.sh [--destdir DIR]

Builds (profile dist) and installs
  /usr/bin/vfsd  /usr/bin/dsm-agent
  /usr/lib/systemd/system/vfsd.service  /usr/lib/systemd/system/dsm-agent.service
Nothing is started or enabled. With --destdir the files go below DIR, for packaging.

Example of what comes next:
  vfsd init --node n1 --listen 192.0.2.1:7601
  systemctl enable --now vfsd dsm-agent
TEXT
}

DESTDIR=
while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) usage; exit 0 ;;
    --destdir) DESTDIR=${2:?--destdir needs a folder}; shift 2 ;;
    *) usage >&2; exit 2 ;;
  esac
done
cd "$(dirname "$0")/.."
LOG=$(mktemp /tmp/contextos-install.XXXXXX.log)
# shellcheck source=lib/phase.sh
. scripts/lib/phase.sh
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
[ -n "$DESTDIR" ] || [ "$(id -u)" = 0 ] || fail "/usr belongs to root" "run it as root, or with --destdir DIR"
# shellcheck disable=SC2086 # One word is one package.
[ -n "$DESTDIR" ] || ensure_packages $BUILD_PACKAGES fuse3
ensure_cargo
phase "build" cargo build --profile dist --locked --bin vfsd --bin dsm-agent
built=${CARGO_TARGET_DIR:-target}/dist
for program in vfsd dsm-agent; do
  install -D -m 755 "$built/$program" "$DESTDIR/usr/bin/$program"
  install -D -m 644 "$program/systemd/$program.service" "$DESTDIR/usr/lib/systemd/system/$program.service"
  echo "$DESTDIR/usr/bin/$program"
done
[ -n "$DESTDIR" ] || ! command -v systemctl >/dev/null || systemctl daemon-reload || true
rm -f "$LOG"
