#!/bin/bash
# Feeds the decoders bytes that a fuzzer grows, as long as one likes.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/fuzz.sh [TARGET] [SECONDS]

Runs the fuzz target TARGET (all of them, one after the other, without it or with `all`) for SECONDS (60 if not said).
Begins with the inputs of tests/fuzz/corpus and of earlier runs, which stay in target/fuzz/corpus. Exit status 1 if an
input panics, takes more than 10 s or 2 GB; it is kept in target/fuzz/artifacts, and belongs into tests/fuzz/corpus once
it is mended: the ordinary tests decode what lies there. Needs a nightly compiler (rustup toolchain install nightly);
the first build takes some minutes.
TEXT
}

case ${1:-} in
  -h | --help) usage; exit 0 ;;
esac
case ${2:-60} in
  *[!0-9]*) usage >&2; exit 2 ;;
esac
cd "$(dirname "$0")/.."
# shellcheck source=lib/phase.sh
. scripts/lib/phase.sh
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
known=$(basename -s .rs tests/fuzz/fuzz_targets/*.rs)
wanted=${1:-all}
[ "$wanted" != all ] || wanted=$known
for name in $wanted; do
  [ -e "tests/fuzz/fuzz_targets/$name.rs" ] || fail "there is no target $name" "there are: ${known//$'\n'/ }"
done
ensure_cargo
cargo +nightly --version >/dev/null 2>&1 || fail "there is no nightly compiler" "rustup toolchain install nightly"
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
ensure_tools "cargo-fuzz@0.13.2"
export PATH=$target/tools/bin:$PATH CARGO_TARGET_DIR=$target/fuzz
failed=()
for name in $wanted; do
  corpus=$target/fuzz/corpus/$name artifacts=$target/fuzz/artifacts/$name
  mkdir -p "$corpus" "$artifacts"
  # Without the address sanitizer: the decoders are safe code, and a build of its own for each is slow.
  cargo +nightly fuzz run --fuzz-dir tests/fuzz --sanitizer none "$name" "$corpus" "tests/fuzz/corpus/$name" -- \
    -max_total_time="${2:-60}" -timeout=10 -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="$artifacts/" ||
    failed+=("$name")
done
[ ${#failed[@]} = 0 ] || fail "a decoder did not do what it must: ${failed[*]}" "see $target/fuzz/artifacts"
