#!/usr/bin/env bash
# bench.sh: how fast a save is, beside ext4, etcd and a raw Raft round in the same run.
set -euo pipefail
called_in=$PWD
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
Usage: scripts/bench.sh [--json] [--quick] [--against PROGRAM] [--dir DIR]

Builds what would be installed and measures three daemons with a mount each on this machine, as root. What is compared
is measured in turns. Prints a table with the aims, or with --json one object. It takes about ten minutes.

  --quick            a tenth of the samples: to see that it works, not to compare
  --against PROGRAM  another build of vfsd: its rows in turns with ours, and ours by its
  --dir DIR          where the data lies, on a real disk with 5 GB free (default: /var/tmp)

etcd is measured too where its program is installed (apt-get install etcd-server).
TEXT
}

arguments=()
while [ $# -gt 0 ]; do
    case $1 in
    --json | --quick) arguments+=("$1") ;;
    --against | --dir)
        if [ $# -lt 2 ]; then
            echo "error: $1 needs a value" >&2
            exit 2
        fi
        # As the caller sees it: the benchmark runs in another folder.
        arguments+=("$1" "$(cd "$called_in" && realpath -- "$2")")
        shift
        ;;
    --help | -h) usage; exit 0 ;;
    *) echo "error: unknown argument $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
if [ "$(id -u)" != 0 ]; then
    echo "error: mounting needs root" >&2
    exit 1
fi
cargo build --profile dist -q -p vfsd -p dsm-agent
exec cargo bench --profile dist -q -p vfsd --bench store -- --vfsd "$PWD/target/dist/vfsd" "${arguments[@]}"
