# Debian packages that building and testing need; sourced by the other scripts.

BUILD_PACKAGES="build-essential pkg-config git"
NODE_PACKAGES="attr e2fsprogs fuse3 iproute2 mmdebstrap mount nftables procps python3 sqlite3 util-linux"

# missing_packages PACKAGE...: those that are not installed.
missing_packages() {
  local package
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || echo "$package"
  done
}

# install_packages PACKAGE...
install_packages() {
  export DEBIAN_FRONTEND=noninteractive
  apt-get -o DPkg::Lock::Timeout=300 update -q
  apt-get -o DPkg::Lock::Timeout=300 install -y -q --no-install-recommends "$@"
}

# ensure_packages PACKAGE...: one phase line if something is missing, none otherwise.
ensure_packages() {
  local missing
  missing=$(missing_packages "$@")
  [ -z "$missing" ] && return 0
  [ "$(id -u)" = 0 ] || fail "these Debian packages are missing: ${missing//$'\n'/ }" "run as root, or install them"
  # shellcheck disable=SC2086 # One word is one package.
  phase "packages" install_packages $missing
}

# ensure_cargo: puts cargo on the PATH.
ensure_cargo() {
  command -v cargo >/dev/null && return 0
  PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
  command -v cargo >/dev/null || fail "cargo is missing" "install Rust 1.90 or newer: https://rustup.rs"
}
