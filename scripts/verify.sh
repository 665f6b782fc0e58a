#!/bin/bash
# Read-only checks of the sources: format, lints, the tidy test. Changes no file of the repository.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/verify.sh

Checks formatting, compiler and clippy warnings (as errors), and the rules of the tidy test. Reads only; what it
finds, scripts/fix.sh repairs where a machine can. Exit status 0 if all is well, 1 if not.
TEXT
}

case ${1:-} in
  '') ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
set -x
cargo fmt --all --check
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo test --locked --workspace --test tidy
