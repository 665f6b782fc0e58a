#!/bin/bash
# Repairs what a machine can: formatting and clippy's safe suggestions. Rewrites files.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/fix.sh

Formats all sources and applies clippy's machine-applicable suggestions, also with uncommitted changes in the tree.
Read the diff afterwards.
TEXT
}

case ${1:-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
cargo fmt --all
