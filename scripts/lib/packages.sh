# Debian packages that building and testing need; sourced by the other scripts.

BUILD_PACKAGES="build-essential pkg-config git"
NODE_PACKAGES="attr e2fsprogs fuse3 iproute2 mmdebstrap mount nftables procps python3 sqlite3 util-linux"

# What the tests of real programs run.
PROGRAM_PACKAGES="libcap2-bin lmdb-utils logrotate make python3-lmdb python3-pip rsync vim"
# Elsewhere npm comes with Node's own packages, which Debian's would replace.
command -v npm >/dev/null || PROGRAM_PACKAGES+=" npm"
# Conformance suites, by version: they lie in target/tools.
TOOLS="fsx@0.3.2 pjdfstest@0.2.2"

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

# missing_tools TOOL@VERSION...: those that are not in target/tools, each in its version.
missing_tools() {
  local tool
  for tool in "$@"; do
    cargo install --list --root "${CARGO_TARGET_DIR:-target}/tools" 2>/dev/null |
      grep -qx "${tool%@*} v${tool#*@}:" || echo "$tool"
  done
}

# ensure_tools [TOOL@VERSION...]: installs what is missing of them, or of TOOLS.
ensure_tools() {
  local missing
  # shellcheck disable=SC2086 # One word is one program.
  missing=$(missing_tools ${*:-$TOOLS})
  [ -z "$missing" ] && return 0
  # shellcheck disable=SC2086 # One word is one program.
  cargo install --locked --root "${CARGO_TARGET_DIR:-target}/tools" $missing
}
