#!/usr/bin/env bash
# bench.sh: how fast a save is, beside ext4, etcd and a raw Raft round in the same run.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/bench.sh [--json] [--quick]

Builds what would be installed and measures three daemons with a mount each on this machine, as root. Prints a table,
or with --json one object. --quick takes a tenth of the samples: to see that it works, not to compare.

etcd is measured too where its program is installed (apt-get install etcd-server).
TEXT
}

for argument in "$@"; do
    case $argument in
    --json | --quick) ;;
    --help | -h) usage; exit 0 ;;
    *) echo "error: unknown argument $argument" >&2; usage >&2; exit 2 ;;
    esac
done
if [ "$(id -u)" != 0 ]; then
    echo "error: mounting needs root" >&2
    exit 1
fi
cargo build --profile dist -q -p vfsd -p dsm-agent
exec cargo bench --profile dist -q -p vfsd --bench store -- --vfsd "$PWD/target/dist/vfsd" "$@"
