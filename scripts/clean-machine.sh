#!/bin/bash
# The README's commands on a clean Debian 12: a root with Debian's base, git and Rust, and nothing else.
set -euo pipefail

usage() {
  cat <<'TEXT'
Usage: scripts/clean-machine.sh [--kernel] [COMMAND]

Makes a clean Debian 12, clones the committed state of this repository into it and runs COMMAND there, by default the
demo, the demo again, and its end. The exit status is that of COMMAND. As root; about 3 GB under /var/tmp.
  --kernel   boots it in a virtual machine, with Debian's own kernel and systemd. The programs are built before, outside
             of it; where the processor cannot virtualise, the machine is emulated: half an hour for the demo
Examples:
  scripts/clean-machine.sh
  scripts/clean-machine.sh .ci/run
  scripts/clean-machine.sh --kernel
TEXT
}

kernel=
case ${1:-} in
  -h | --help) usage; exit 0 ;;
  --kernel) kernel=1; shift ;;
  -*) usage >&2; exit 2 ;;
esac
command=${*:-scripts/demo.sh && scripts/demo.sh && scripts/demo.sh down}
cd "$(dirname "$0")/.."
# shellcheck source=lib/phase.sh
. scripts/lib/phase.sh
# shellcheck source=lib/packages.sh
. scripts/lib/packages.sh
[ "$(id -u)" = 0 ] || fail "a root filesystem can be made only by root" "run it as root"
ensure_cargo
folder=${CONTEXTOS_CLEAN_DIR:-/var/tmp/contextos-clean}
root=$folder/root
mkdir -p "$folder"
LOG=$folder/log
: >"$LOG"
packages=ca-certificates,git,systemd-sysv
[ -z "$kernel" ] || packages=$packages,linux-image-cloud-amd64,ifupdown,isc-dhcp-client

# A phase does not stop at the first command that fails, hence the `&&`.
make_root() {
  local rust
  rust=$(rustc --print sysroot) &&
    rm -rf "$root" &&
    mmdebstrap --variant=important --include="$packages" bookworm "$root" http://deb.debian.org/debian &&
    cp -a "$rust/bin" "$rust/lib" "$root/usr/local/" &&
    # Where the network has an authority of its own, downloads need it.
    cp -a /usr/local/share/ca-certificates "$root/usr/local/share/" &&
    chroot "$root" update-ca-certificates &&
    git clone --quiet --no-hardlinks . "$root/root/contextos"
}

# inside COMMAND: in the clean root, with namespaces of its own.
inside() {
  unshare --mount --pid --uts --ipc --fork --kill-child bash -euc '
    mount --make-rprivate /
    mount --bind "$0" "$0"
    cd "$0"
    mount -t proc proc proc
    mount --rbind /sys sys
    mount --rbind /dev dev
    mount -t tmpfs -o mode=755 tmpfs run
    mount -t tmpfs tmpfs tmp
    cp /etc/resolv.conf etc/resolv.conf
    hostname clean
    exec chroot . /usr/bin/env -i HOME=/root LANG=C.UTF-8 TERM=dumb \
      PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin bash -c "cd /root/contextos && $1"
  ' "$root" "$1"
}

# What the machine does when it is up: COMMAND, its exit status, and off.
make_disk() {
  printf 'auto lo\niface lo inet loopback\nauto eth0\niface eth0 inet dhcp\n' >"$root/etc/network/interfaces"
  echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
  echo clean >"$root/etc/hostname"
  echo '/dev/vda / ext4 defaults 0 1' >"$root/etc/fstab"
  printf '%s\n' "$command" >"$root/root/command"
  cat >"$root/etc/systemd/system/clean.service" <<'UNIT'
[Unit]
Wants=network-online.target
After=network-online.target
[Service]
WorkingDirectory=/root/contextos
Environment=HOME=/root LANG=C.UTF-8 TERM=dumb
ExecStart=/bin/bash -o pipefail -c 'bash /root/command 2>&1 | cat'
ExecStopPost=/bin/sh -c 'echo "exit status $EXIT_STATUS"; exec systemctl --no-block poweroff'
StandardOutput=file:/dev/ttyS1
StandardError=file:/dev/ttyS1
[Install]
WantedBy=multi-user.target
UNIT
  chroot "$root" systemctl enable clean.service &&
    cp "$root"/boot/vmlinuz-* "$folder/vmlinuz" &&
    cp "$root"/boot/initrd.img-* "$folder/initrd" &&
    rm -f "$folder/disk" &&
    truncate -s 30G "$folder/disk" &&
    mke2fs -q -t ext4 -d "$root" "$folder/disk"
}

boot() {
  local accelerator=tcg,thread=multi
  # The flags tell more than /dev/kvm, which is there on machines that cannot virtualise, too.
  if grep -qE '^flags.* (svm|vmx)' /proc/cpuinfo && [ -w /dev/kvm ]; then accelerator=kvm; fi
  : >"$folder/output"
  qemu-system-x86_64 -accel "$accelerator" -cpu max -smp "$(nproc)" -m 8G -display none -monitor none -no-reboot \
    -kernel "$folder/vmlinuz" -initrd "$folder/initrd" -append 'root=/dev/vda rw console=ttyS0 net.ifnames=0' \
    -drive "file=$folder/disk,format=raw,if=virtio,cache=writeback" -serial "file:$folder/console" \
    -serial "file:$folder/output" -nic user,model=virtio-net-pci </dev/null &
  local machine=$!
  tail --pid="$machine" -n +1 -f "$folder/output"
  wait "$machine"
  grep -aq '^exit status 0' "$folder/output"
}

# shellcheck disable=SC2046 # One word is one package.
ensure_packages git mmdebstrap util-linux $([ -z "$kernel" ] || echo qemu-system-x86 e2fsprogs)
phase "clean Debian 12" make_root
if [ -z "$kernel" ]; then
  inside "$command"
  exit
fi
phase "build" inside ". scripts/lib/packages.sh && install_packages \$BUILD_PACKAGES \$NODE_PACKAGES &&
  cargo build --release --locked --bin vfsd --bin dsm-agent --bin testhosts"
phase "disk" make_disk
boot
