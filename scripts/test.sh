#!/bin/bash
# All tests: format, lints, unit and model tests, system tests on real mounts in real nodes.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/test.sh [--fast]

Runs everything that must hold before a change lands: formatting, clippy with warnings as errors, and all tests of the
workspace, the system tests on real nodes of this machine included. About 25 minutes on two cores when nothing is built.
  --fast   without the system tests
What cannot run here is named with its reason; then the exit status is 1 all the same, because it was not tested.
TEXT
}

fast=
case ${1:-} in
  '') ;;
  --fast) fast=1 ;;
  -h | --help) usage; exit 0 ;;
  *) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
# shellcheck source=lib/phase.sh
. scripts/lib/phase.sh
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
ensure_cargo
start=$EPOCHREALTIME
failures=()

# check NAME COMMAND...: runs it with its output shown; a failure is remembered and the rest goes on.
check() {
  local name=$1 begin=$EPOCHREALTIME
  shift
  echo "== $name"
  if "$@" </dev/null; then
    echo "== $name   $(elapsed "$begin")"
  else
    echo "== $name   $(elapsed "$begin")   FAILED"
    failures+=("$name")
  fi
}

check "format" cargo fmt --all --check
check "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
check "build" cargo build --locked --workspace --bins
check "conformance suites" ensure_tools
check "simulation" scripts/simulate.sh
# Of the worlds that a plain `cargo test` looks at, these have been seen already, and in a quicker build.
export CONTEXTOS_SIMULATED_WORLDS=10
if [ -n "$fast" ]; then
  check "tests without nodes" cargo test --locked --workspace --exclude system-tests --no-fail-fast
  check "tidy" cargo test --locked --workspace --test tidy
elif "${CARGO_TARGET_DIR:-target}"/debug/testhosts check; then
  # Tests on nodes take turns by themselves, whatever programs they are in.
  check "tests" cargo test --locked --workspace --no-fail-fast
else
  check "tests without nodes" cargo test --locked --workspace --exclude system-tests --no-fail-fast
  failures+=("system tests: they cannot run here, see above")
fi

echo
if [ ${#failures[@]} = 0 ]; then
  echo "All passed in $(elapsed "$start")."
  exit 0
fi
echo "Not passed in $(elapsed "$start"):"
printf '  %s\n' "${failures[@]}"
exit 1
